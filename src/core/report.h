// What the sequences of a call did, summed into its RunReport: the same sums for every backend.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve {

class ReportSum {
 public:
  // `density`: of the sequence's block masks.
  void add_dense(const Plan& plan, DenseReason reason, double density = 1.0);

  // A sequence that kept `keep` prefix tokens, whose sets make so many pairs per query head.
  void add_sparse(const Plan& plan, int64_t keep, double pairs, double density = 1.0);

  // A sequence that was a call of its own.
  void add(const AttentionShape& shape, const RunReport& sequence);

  // Writes all but times and isa.
  void finish(RunReport& report) const;

 private:
  void add(const AttentionShape& shape, int64_t kept, double pairs, double density,
           DenseReason reason, Path path);

  Path path_ = Path::kDense;
  DenseReason reason_ = DenseReason::kNone;
  int64_t kept_ = 0;
  double tokens_ = 0;
  double pairs_ = 0;
  double dense_pairs_ = 0;
  double density_ = 0;  // times dense_pairs
};

}  // namespace tokensieve
