// What the sequences of a call did, summed into its RunReport: the same sums for every backend.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve {

class ReportSum {
 public:
  void add_dense(const Plan& plan, DenseReason reason);

  // A sequence that kept `keep` prefix tokens and computed so many pairs per query head.
  void add_sparse(const Plan& plan, int64_t keep, double pairs);

  // A sequence that was a call of its own.
  void add(const AttentionShape& shape, const RunReport& sequence);

  // Writes all but times and isa.
  void finish(RunReport& report) const;

 private:
  void add(const AttentionShape& shape, int64_t kept, double pairs, DenseReason reason, Path path);

  Path path_ = Path::kDense;
  DenseReason reason_ = DenseReason::kNone;
  int64_t kept_ = 0;
  double tokens_ = 0;
  double pairs_ = 0;
  double dense_pairs_ = 0;
};

}  // namespace tokensieve
