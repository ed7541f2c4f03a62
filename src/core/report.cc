#include "core/report.h"

#include "core/work.h"

namespace tokensieve {

void ReportSum::add_dense(const Plan& plan, DenseReason reason, double density) {
  add(plan.shape, plan.shape.seqlen_kv, density * dense_pairs(plan.shape), density, reason,
      Path::kDense);
}

void ReportSum::add_sparse(const Plan& plan, int64_t keep, double pairs, double density) {
  const double local = density == 1.0 ? pairs : sparse_pairs(plan, keep).local;
  add(plan.shape, keep + plan.suffix_len(), local + density * (pairs - local), density,
      DenseReason::kNone, Path::kSparse);
}

void ReportSum::add(const AttentionShape& shape, const RunReport& sequence) {
  add(shape, sequence.keep_count, sequence.work * dense_pairs(shape),
      sequence.block_density, sequence.reason, sequence.path);
}

void ReportSum::add(const AttentionShape& shape, int64_t kept, double pairs, double density,
                    DenseReason reason, Path path) {
  if (path == Path::kSparse) path_ = path;
  if (reason_ == DenseReason::kNone) reason_ = reason;
  kept_ += kept;
  tokens_ += static_cast<double>(shape.seqlen_kv);
  pairs_ += pairs;
  dense_pairs_ += dense_pairs(shape);
  density_ += density * dense_pairs(shape);
}

void ReportSum::finish(RunReport& report) const {
  report.path = path_;
  report.reason = reason_;
  report.keep_count = kept_;
  report.keep_ratio = tokens_ > 0 ? static_cast<double>(kept_) / tokens_ : 1.0;
  report.work = dense_pairs_ > 0 ? pairs_ / dense_pairs_ : 0.0;
  report.block_density = dense_pairs_ > 0 ? density_ / dense_pairs_ : 1.0;
}

}  // namespace tokensieve
