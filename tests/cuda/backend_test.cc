#include "cuda/backend_test.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "core/report.h"
#include "core/work.h"
#include "cuda/backend_cases.h"
#include "cuda/device_case.h"
#include "cuda/expected.h"
#include "support/compare.h"
#include "tokensieve/executor.h"

namespace tokensieve::cuda::test {
namespace {

using tokensieve::test::make_data;
using tokensieve::test::overlap;

constexpr double kMinOverlap = 0.998;  // of kept sets with the oracle's

double tolerance(const AttentionCase& c) { return c.shape.dtype == DType::kBF16 ? 5e-3 : 1e-3; }

std::string text_of(const Status& status) { return status.ok() ? "" : status.message(); }

class CaseTest {
 public:
  CaseTest(Runner& runner, const AttentionCase& c, const Plan& plan, CaseData& data)
      : runner_(runner), c_(c), plan_(plan), data_(data), device_(plan, data) {}

  void run() {
    sets_.count.assign(c_.shape.batch, c_.shape.seqlen_kv);
    sets_.kept.assign(c_.shape.batch, {});
    if (plan_.path == Path::kSparse) {
      const Status status = device_.select(sets_);
      check("select_tokens", text_of(status));
      if (!status.ok()) return;
      check("sets", check_sets());
      check("report_of_sets", check_report());
      if (c_.shape.seqlen_q == c_.shape.seqlen_kv) check("compact_scatter", check_rows());
    } else if (c_.reason == DenseReason::kNone) {
      check("plan", text("dense: ", dense_reason_text(plan_.reason)));
    }
    const Status status = device_.run();
    check("run", text_of(status));
    if (!status.ok()) return;
    const std::vector<uint16_t> out = device_.out_bits();
    const std::vector<uint32_t> lse = device_.lse_bits();
    device_.fetch();
    check("attention", check_attention());
    check("report", check_report());
    check("rerun", text_of(device_.run(0x7f)));
    // Gaps between rows hold the poison of each run.
    device_.fetch();
    const std::vector<double> second = data_.out_values();
    check("rerun_bits", same_values(out, second) && device_.lse_bits() == lse
                            ? "" : "a second run gives other bits");
    if (plan_.path != Path::kSparse) return;
    check("given", text_of(device_.run_given(sets_)));
    check("given_bits", device_.out_bits() == out && device_.lse_bits() == lse
                            ? "" : "the chosen sets, given, give other bits");
  }

  // Sets that select would not choose.
  void run_free(int64_t prefix) {
    sets_ = random_sets(plan_, prefix, 11);
    const Status status = device_.run_given(sets_);
    check("run", text_of(status));
    if (!status.ok()) return;
    device_.fetch();
    check("attention", check_attention());
    check("report", check_report());
    if (c_.shape.batch == 1) return;
    // Counts that no set can have run dense.
    const std::vector<uint16_t> out = device_.out_bits();
    sets_.kept.back().assign(plan_.num_sets, {0, 1, 2});
    for (const int64_t count :
         {int64_t{3}, int64_t{-1}, c_.shape.seqlen_kv - 1, int64_t{1} << 40}) {
      sets_.count.back() = count;
      check("bad_count", text_of(device_.run_given(sets_)));
      check("bad_count_bits", device_.out_bits() == out ? "" : text(count, " is not dense"));
    }
  }

 private:
  void check(const char* what, const std::string& problem) {
    runner_.check(c_.name + "/" + what, problem);
  }

  // `prefix` random tokens of every set and all after the prefix; the last of several sequences
  // dense.
  static DeviceSets random_sets(const Plan& plan, int64_t prefix, uint64_t seed) {
    const AttentionShape& s = plan.shape;
    tokensieve::test::Random random(seed);
    DeviceSets sets;
    for (int64_t b = 0; b < s.batch; ++b) {
      const bool dense = b > 0 && b == s.batch - 1;
      sets.count.push_back(dense ? s.seqlen_kv : prefix + plan.suffix_len());
      sets.kept.emplace_back();
      for (int64_t set = 0; set < (dense ? 0 : plan.num_sets); ++set) {
        std::vector<int32_t> tokens(s.seqlen_kv);
        std::iota(tokens.begin(), tokens.end(), 0);
        for (int64_t i = 0; i < prefix; ++i) {
          std::swap(tokens[i], tokens[i + random.below(plan.prefix_len - i)]);
        }
        tokens.erase(tokens.begin() + prefix, tokens.begin() + plan.prefix_len);
        std::sort(tokens.begin(), tokens.end());
        sets.kept.back().push_back(std::move(tokens));
      }
    }
    return sets;
  }

  // The first run's bits in `out` against values of the second.
  bool same_values(const std::vector<uint16_t>& out, const std::vector<double>& second) const {
    TensorView first = data_.out.view();
    first.data = const_cast<uint16_t*>(out.data());
    size_t i = 0;
    for (int64_t b = 0; b < first.shape[0]; ++b) {
      for (int64_t s = 0; s < first.shape[1]; ++s) {
        for (int64_t h = 0; h < first.shape[2]; ++h) {
          for (int64_t d = 0; d < first.shape[3]; ++d, ++i) {
            const double x = ref::load(first, ref::row_offset(first, b, s, h) + d);
            if (!(x == second[i] || (std::isnan(x) && std::isnan(second[i])))) return false;
          }
        }
      }
    }
    return true;
  }

  std::string check_sets() const {
    const AttentionInputs in = data_.inputs();
    for (int64_t b = 0; b < c_.shape.batch; ++b) {
      const ref::Selection expected = ref::select_sequence(plan_, in, b, {});
      const bool dense = sets_.kept[b].empty();
      if (dense != expected.dense()) {
        return text("sequence ", b, dense ? " is dense, expected sparse"
                                          : " is sparse, expected dense");
      }
      for (size_t set = 0; set < sets_.kept[b].size(); ++set) {
        const std::vector<int32_t>& kept = sets_.kept[b][set];
        if (!std::is_sorted(kept.begin(), kept.end())) return text("set ", set, " is not sorted");
        const double same = std::min(overlap(kept, expected.kept[set]),
                                     overlap(expected.kept[set], kept));
        if (!(same >= kMinOverlap)) {
          return text("sequence ", b, " set ", set, ": overlap ", same, ", ", kept.size(),
                      " kept, expected ", expected.kept[set].size());
        }
      }
    }
    return "";
  }

  std::span<const int32_t> kept_of(int64_t b, int64_t head) const {
    if (sets_.kept[b].empty()) return {};
    return sets_.kept[b][head * plan_.num_sets / c_.shape.num_q_heads];
  }

  // Sampled rows of every head in double, with the sets that the device chose.
  std::string check_attention() const {
    const AttentionShape& s = c_.shape;
    const AttentionInputs in = data_.inputs();
    const TensorView out = data_.out.view();
    std::vector<double> actual, expected, lse, expected_lse;
    std::vector<std::string> where;
    std::vector<double> row(s.head_dim);
    for (int64_t b = 0; b < s.batch; ++b) {
      const ExpectedRows rows(plan_, in, b);
      for (int64_t h = 0; h < s.num_q_heads; ++h) {
        // A NaN value also reaches earlier rows of its tile (0 * NaN): its head is no test.
        const bool nan_head = b == 0 && h < s.num_q_heads / s.num_kv_heads;
        if (c_.content == Content::kNanInV && nan_head) continue;
        const int64_t wanted = s.seqlen_kv > 20000 ? 24 : 60;
        for (int64_t i : sampled_queries(s.seqlen_q, wanted, h + 1)) {
          expected_lse.push_back(
              rows.row(h, i, sets_.kept[b].empty(), kept_of(b, h), row.data()));
          lse.push_back(data_.lse[(b * s.num_q_heads + h) * s.seqlen_q + i]);
          where.push_back(text("[", b, ", ", i, ", ", h, "]"));
          expected.insert(expected.end(), row.begin(), row.end());
          const size_t begin = actual.size();
          actual.resize(begin + s.head_dim);
          ref::load_row(out, b, i, h, &actual[begin]);
        }
      }
    }
    if (!data_.out.untouched_outside()) return "wrote between the rows of out";
    const auto same = tokensieve::test::close(actual, expected, tolerance(c_),
                                              {static_cast<int64_t>(where.size()), s.head_dim});
    if (!same) {
      return text("out [sampled row, dim]: ", same.message(),
                  first_wrong(actual, expected, where));
    }
    const auto same_lse =
        tokensieve::test::close(lse, expected_lse, 1e-3, {static_cast<int64_t>(lse.size())}, 0.02);
    return same_lse ? "" : text("lse: ", same_lse.message());
  }

  std::string first_wrong(const std::vector<double>& actual, const std::vector<double>& expected,
                          const std::vector<std::string>& where) const {
    const size_t dim = static_cast<size_t>(c_.shape.head_dim);
    std::string rows;
    int wrong = 0;
    for (size_t r = 0; r < where.size(); ++r) {
      const std::span<const double> a(&actual[r * dim], dim), e(&expected[r * dim], dim);
      const auto d = tokensieve::test::compare(a, e);
      if (d.mask_mismatches == 0 && d.rel_l2 < 0.03) continue;
      if (wrong++ < 6) rows += text(" ", where[r], " rel ", d.rel_l2, " nan ", d.mask_mismatches);
    }
    return text("; ", wrong, " of ", where.size(), " rows [batch, query, head]:", rows);
  }

  std::string check_report() {
    RunReport report;
    const Status status = read_report(plan_, device_.workspace(), device_.stream(), &report);
    if (!status.ok()) return status.message();
    const RunReport expected = expected_report();
    if (report.keep_count != expected.keep_count) {
      return text("run kept ", report.keep_count, " tokens, select_tokens ", expected.keep_count);
    }
    if (report.work != expected.work) {
      return text("work is ", report.work, ", the sets make ", expected.work);
    }
    return report.path == expected.path ? "" : "the wrong path";
  }

  // Of the sets, counted here.
  RunReport expected_report() const {
    ReportSum sum;
    for (int64_t b = 0; b < c_.shape.batch; ++b) {
      const auto& sets = sets_.kept[b];
      if (sets.empty()) {
        sum.add_dense(plan_, DenseReason::kDecidedOnDevice);
        continue;
      }
      int64_t far = 0;
      for (const std::vector<int32_t>& kept : sets) far += far_pairs(plan_, kept);
      const int64_t keep = sets_.count[b] - plan_.suffix_len();
      sum.add_sparse(plan_, keep, counted_pairs(plan_, keep, far));
    }
    RunReport report;
    sum.finish(report);
    return report;
  }

  // compact(k) holds the kept rows; scatter brings them back and zeros the others.
  std::string check_rows() {
    const AttentionShape& s = c_.shape;
    const int64_t capacity = plan_.keep_capacity();
    const int32_t heads = std::max(plan_.num_sets, s.num_kv_heads);
    std::vector<int32_t> indices(s.batch * plan_.num_sets * capacity, -1);
    for (int64_t b = 0; b < s.batch; ++b) {
      for (size_t set = 0; set < sets_.kept[b].size(); ++set) {
        std::copy(sets_.kept[b][set].begin(), sets_.kept[b][set].end(),
                  indices.begin() + (b * plan_.num_sets + set) * capacity);
      }
    }
    const DeviceBuffer device_indices(indices), device_count(sets_.count);
    const KeepSet keep = {device_indices.as<int32_t>(), capacity, device_count.as<int64_t>()};
    using tokensieve::test::Tensor;
    Tensor rows(s.kv_dtype, Layout::kBhsd, s.batch, capacity, heads, s.head_dim);
    Tensor back(s.kv_dtype, Layout::kBshd, s.batch, s.seqlen_kv, heads, s.head_dim);
    const DeviceTensor device_rows(rows.view()), device_back(back.view());
    const RunOptions options = {.stream = device_.stream()};
    Status status = compact(plan_, device_.inputs().k, keep, device_rows.view(), options);
    if (status.ok()) status = scatter(plan_, device_rows.view(), keep, device_back.view(), options);
    if (status.ok()) status = device_.wait();
    if (!status.ok()) return status.message();
    device_rows.download();
    device_back.download();
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < heads && !sets_.kept[b].empty(); ++h) {
        const auto& kept = sets_.kept[b][h * plan_.num_sets / heads];
        const int64_t source = h * s.num_kv_heads / heads;
        size_t r = 0;
        for (int64_t t = 0; t < s.seqlen_kv; ++t) {
          const bool is_kept = r < kept.size() && kept[r] == t;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            const double x = data_.k.at(b, t, source, d);
            if (is_kept && !(rows.at(b, r, h, d) == x)) return text("compact row ", r);
            if (back.at(b, t, h, d) != (is_kept ? x : 0.0)) return text("scatter row ", t);
          }
          r += is_kept;
        }
      }
    }
    return "";
  }

  Runner& runner_;
  const AttentionCase& c_;
  const Plan& plan_;
  CaseData& data_;
  DeviceCase device_;
  DeviceSets sets_;
};

// Fill x share x queries with sets of few and of many random tokens.
void test_free_sets(Runner& runner, const AttentionCase& c, int64_t prefix) {
  const Result<Plan> plan = make_plan(c.shape, c.select, {.backend = Backend::kCuda});
  if (!plan.ok()) return runner.check(c.name + "/plan", plan.status().message());
  CaseData data = make_data(c, 23);
  CaseTest(runner, c, *plan, data).run_free(prefix);
}

void test_case(Runner& runner, const AttentionCase& c) {
  const Result<Plan> plan = make_plan(c.shape, c.select, {.backend = Backend::kCuda});
  if (!plan.ok()) return runner.check(c.name + "/plan", plan.status().message());
  CaseData data = make_data(c, 17 + static_cast<uint64_t>(c.shape.seqlen_kv));
  CaseTest(runner, c, *plan, data).run();
}

}  // namespace

void test_given_sets(Runner& runner) {
  for (const Fill fill : {Fill::kZero, Fill::kLocal}) {
    for (const Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
      for (const int64_t prefix : {0, 1, 700}) {
        AttentionCase c = {.shape = tokensieve::test::self_attention(1500, 4, 2, 128),
                           .select = matrix_select(fill, share, BudgetPolicy::kKeepCount, 0)};
        c.name = text("given_", fill == Fill::kZero ? "zero" : "local", "_share",
                      static_cast<int>(share), "_", prefix);
        set_dtype(c.shape, DType::kBF16);
        c.shape.batch = 2;
        c.select.keep_count = std::max<int64_t>(1, prefix);
        c.select.min_keep = 0;
        test_free_sets(runner, c, prefix);
        c.name += "_chunk";
        c.select.queries = Queries::kAll;
        c.shape.seqlen_q = 500;
        test_free_sets(runner, c, prefix);
      }
    }
  }
}

void test_cases(Runner& runner, int num_threads, const char* filter) {
  std::vector<AttentionCase> cases;
  for (auto&& more : {special_cases(), matrix_cases(), table_cases()}) {
    for (const AttentionCase& c : more) {
      if (filter == nullptr || c.name.find(filter) != std::string::npos) cases.push_back(c);
    }
  }
  const std::unique_ptr<Executor> executor = make_thread_pool(num_threads);
  executor->parallel_for(static_cast<int64_t>(cases.size()),
                         [&](int64_t i, int) { test_case(runner, cases[i]); });
}

}  // namespace tokensieve::cuda::test
