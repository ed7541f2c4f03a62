#include "core/report.h"

#include "core/work.h"

namespace tokensieve {

void ReportSum::add_dense(const Plan& plan, DenseReason reason) {
  add(plan.shape, plan.shape.seqlen_kv, dense_pairs(plan.shape), reason, Path::kDense);
}

void ReportSum::add_sparse(const Plan& plan, int64_t keep, double pairs) {
  add(plan.shape, keep + plan.suffix_len(), pairs, DenseReason::kNone, Path::kSparse);
}

void ReportSum::add(const AttentionShape& shape, const RunReport& sequence) {
  add(shape, sequence.keep_count, sequence.work * dense_pairs(shape), sequence.reason,
      sequence.path);
}

void ReportSum::add(const AttentionShape& shape, int64_t kept, double pairs, DenseReason reason,
                    Path path) {
  if (path == Path::kSparse) path_ = path;
  if (reason_ == DenseReason::kNone) reason_ = reason;
  kept_ += kept;
  tokens_ += static_cast<double>(shape.seqlen_kv);
  pairs_ += pairs;
  dense_pairs_ += dense_pairs(shape);
}

void ReportSum::finish(RunReport& report) const {
  report.path = path_;
  report.reason = reason_;
  report.keep_count = kept_;
  report.keep_ratio = tokens_ > 0 ? static_cast<double>(kept_) / tokens_ : 1.0;
  report.work = dense_pairs_ > 0 ? pairs_ / dense_pairs_ : 0.0;
}

}  // namespace tokensieve
