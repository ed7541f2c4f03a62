// Stages score to compact as a call launches them, on memory that starts as NaN: scores against the
// oracle, kept tokens against core/budget on the device's own scores, rows bit by bit. Inputs have
// NaN where no stage may read; everything runs several times and must give the same bits.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>

#include "cuda/backend_test.h"
#include "cuda/call.h"
#include "cuda/device_case.h"
#include "cuda/rows/rows.h"
#include "cuda/stages_expected.h"
#include "cuda/stages_inputs.h"
#include "ref/compact.h"
#include "ref/scatter.h"
#include "ref/score.h"
#include "tokensieve/executor.h"

namespace tokensieve::cuda::test {
namespace {

constexpr double kScoreTolerance = 2e-3;
constexpr int kRuns = 4;

// `words` 32-bit words of device memory.
std::vector<uint32_t> words_at(const void* device, int64_t words) {
  std::vector<uint32_t> host(static_cast<size_t>(words));
  cudaMemcpy(host.data(), device, host.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost);
  return host;
}

// Batch entry b of x.
TensorView entry(TensorView x, int64_t b) {
  x.data = static_cast<uint16_t*>(x.data) + b * x.strides[0];
  x.shape[0] = 1;
  return x;
}

// What select leaves, bit by bit. Compact writes where the scores lie, so it is read before.
struct Chosen {
  std::vector<uint32_t> score, ranked, indices, mask, rank, count;
  bool operator==(const Chosen&) const = default;
};

class StageTest {
 public:
  StageTest(const StageCase& c, const Plan& plan, const Device& device, Executor& executor)
      : c_(c),
        plan_(plan),
        executor_(executor),
        host_(c, plan, executor),
        q_(host_.q.view()),
        k_(host_.k.view()),
        v_(host_.v.view()),
        starts_q_(host_.starts_q),
        starts_kv_(host_.starts_kv),
        sinks_(host_.sinks),
        workspace_(workspace_bytes(plan)),
        public_count_(static_cast<size_t>(plan.shape.batch) * sizeof(int64_t)),
        in_({.q = q_.view(),
             .k = k_.view(),
             .v = v_.view(),
             .sink_logits = sinks_.as<float>(),
             .cu_seqlens_q = c.packed ? starts_q_.as<int32_t>() : nullptr,
             .cu_seqlens_kv = c.packed ? starts_kv_.as<int32_t>() : nullptr}),
        layout_(make_layout(plan, device.num_multiprocessors, workspace_.data())),
        call_(plan_, in_, layout_, device, nullptr) {}
  StageTest(const StageTest&) = delete;

  // `crafted`: scores in place of the stage's, or null. Returns what is wrong.
  std::string run(const std::vector<float>* crafted) {
    Chosen first;
    for (int i = 0; i < kRuns; ++i) {
      const Status status = choose(crafted);
      if (!status.ok()) return status.message();
      if (i == 0) first = chosen_;
    }
    if (!(first == chosen_)) return "reruns differ";
    if (crafted == nullptr && c_.poison_key < 0.0) score_error_ = score_error();
    if (!(score_error_ < kScoreTolerance)) return "score";
    const std::string problem = check_selection();
    return problem.empty() ? check_rows() : problem;
  }
  // Crafted scores: [batch, num_q_heads, prefix_stride].
  int64_t prefix_stride() const { return layout_.prefix_stride; }
  double worst_score_error() const { return score_error_; }
  const std::string& note() const { return note_; }

 private:
  // Stages score and select on poisoned memory.
  Status choose(const std::vector<float>* crafted);
  double score_error() const;

  std::string check_selection();
  std::string check_set(int64_t b, int64_t set, const std::vector<int32_t>& want) const;
  std::string check_rows();
  // Compacted rows are those of `x`; `tail`: with zeros behind them to the end of the tile.
  bool compacted(const void* device, TensorView AttentionInputs::*x, bool tail);
  // `full` is scattered from `device`, and untouched elsewhere.
  bool scattered(const DeviceTensor& full, const void* device);
  TensorView compact_view(void* data) const {
    return bhsd(data, c_.dtype, c_.batch, layout_.capacity, layout_.compact_heads, c_.dim);
  }
  std::vector<uint32_t> compact_rows(const void* device) const {
    return words_at(device, c_.batch * compact_view(nullptr).strides[0] / 2);
  }
  // Sequence b's sets, for the oracle.
  KeepSet sets_of(int64_t b) {
    return {reinterpret_cast<int32_t*>(&chosen_.indices[b * plan_.num_sets * layout_.capacity]),
            layout_.capacity, &counts_[b]};
  }
  bool dense(int64_t b) const { return counts_[b] == host_.keys(b); }

  const StageCase& c_;
  const Plan& plan_;
  Executor& executor_;
  const StageInputs host_;
  const DeviceTensor q_, k_, v_;
  DeviceBuffer starts_q_, starts_kv_, sinks_, workspace_, public_count_;
  const AttentionInputs in_;
  const cuda::Layout layout_;
  Call call_;
  Chosen chosen_;
  std::vector<int64_t> counts_;  // [batch]
  double score_error_ = 0.0;
  std::string note_;
};

Status StageTest::choose(const std::vector<float>* crafted) {
  workspace_.fill(0xff);
  public_count_.fill(0xff);
  if (crafted == nullptr) {
    TOKENSIEVE_RETURN_IF_ERROR(call_.score());
  } else {
    cudaMemcpy(layout_.token_score, crafted->data(), crafted->size() * sizeof(float),
               cudaMemcpyHostToDevice);
  }
  TOKENSIEVE_RETURN_IF_ERROR(call_.select(call_.own_selection(), public_count_.as<int64_t>()));
  TOKENSIEVE_RETURN_IF_ERROR(launched("score and select", cudaDeviceSynchronize()));
  const int64_t batch = plan_.shape.batch, sets = batch * plan_.num_sets;
  chosen_ = {.score = words_at(layout_.token_score, batch * c_.q_heads * layout_.prefix_stride),
             .ranked = words_at(layout_.ranked, sets * layout_.prefix_stride),
             .indices = words_at(layout_.indices, sets * layout_.capacity),
             .mask = words_at(layout_.mask, sets * layout_.words),
             .rank = words_at(layout_.rank, sets * layout_.words),
             .count = words_at(layout_.count, batch)};
  return {};
}

// Largest |actual - expected| / (expected + mean of the head's scores).
double StageTest::score_error() const {
  double worst = 0.0;
  for (int64_t b = 0; b < c_.batch; ++b) {
    const Plan plan = host_.plan_of_sequence(plan_, b);
    const std::vector<double> expected = ref::score(plan, host_.sequence(b), 0, executor_);
    for (int64_t h = 0; h < c_.q_heads; ++h) {
      const double* want = &expected[h * plan.prefix_len];
      const uint32_t* actual = &chosen_.score[(b * c_.q_heads + h) * layout_.prefix_stride];
      const double mean = std::accumulate(want, want + plan.prefix_len, 0.0) / plan.prefix_len;
      for (int64_t j = 0; j < plan.prefix_len; ++j) {
        const double error =
            std::fabs(std::bit_cast<float>(actual[j]) - want[j]) / (want[j] + mean);
        if (!(error <= worst)) worst = error;
      }
    }
  }
  return worst;
}

std::string StageTest::check_selection() {
  for (const uint32_t counter : words_at(layout_.tile_counters, kTileCounters)) {
    if (counter != 0) return "tile counters not cleared";
  }
  std::vector<float> score(chosen_.score.size());
  std::memcpy(score.data(), chosen_.score.data(), score.size() * sizeof(float));
  counts_ = public_count_.read<int64_t>();
  int64_t core_difference = 0;
  for (int64_t b = 0; b < c_.batch; ++b) {
    const float* rows = &score[b * c_.q_heads * layout_.prefix_stride];
    const ExpectedSets want = expected_sets(host_.plan_of_sequence(plan_, b), rows,
                                            layout_.prefix_stride, &core_difference);
    if (chosen_.count[b] != want.count) {
      return text("count ", chosen_.count[b], ", expected ", want.count);
    }
    if (counts_[b] != want.count) return "public count";
    note_ += text(" ", want.count, "/", host_.keys(b));
    for (size_t set = 0; set < want.sets.size(); ++set) {
      const std::string problem = check_set(b, static_cast<int64_t>(set), want.sets[set]);
      if (!problem.empty()) return problem;
    }
  }
  if (core_difference != 0) note_ += text(", core drop differs by ", core_difference);
  return "";
}

// Indices, and a mask and ranks that say what they say.
std::string StageTest::check_set(int64_t b, int64_t set, const std::vector<int32_t>& want) const {
  const int64_t row = b * plan_.num_sets + set;
  const uint32_t* indices = &chosen_.indices[row * layout_.capacity];
  const auto same = [](int32_t token, uint32_t word) {
    return token == static_cast<int32_t>(word);
  };
  if (!std::equal(want.begin(), want.end(), indices, same)) {
    return text("indices of set ", set);
  }
  size_t at = 0;
  for (int64_t word = 0; word * 32 < host_.keys(b); ++word) {
    const int64_t i = row * layout_.words + word;
    uint32_t mask = 0;
    if (chosen_.rank[i] != at) return text("rank of set ", set);
    for (; at < want.size() && want[at] / 32 == word; ++at) mask |= 1u << want[at] % 32;
    if (chosen_.mask[i] != mask) return text("mask of set ", set);
  }
  return "";
}

// Stage compact, and the public pair, which goes without mask and rank.
std::string StageTest::check_rows() {
  Selection selection = call_.own_selection();
  Status status = call_.compact(selection);
  if (status.ok()) status = launched("compact", cudaDeviceSynchronize());
  if (!status.ok()) return status.message();
  if (!compacted(layout_.compact_k, &AttentionInputs::k, true)) return "compact K";
  if (!compacted(layout_.compact_v, &AttentionInputs::v, true)) return "compact V";

  selection.mask = selection.rank = nullptr;
  selection.count = nullptr;
  const Sequences sequences = sequences_of(plan_, in_);
  const auto* count = public_count_.as<int64_t>();
  const TensorView rows = compact_view(layout_.compact_v);
  const int heads = layout_.compact_heads, row_bytes = c_.dim * 2;
  cudaMemset(rows.data, 0xff, static_cast<size_t>(c_.batch * rows.strides[0]) * 2);
  status = launched("gather", gather_rows(sequences, selection, count, tensor_of(in_.v),
                                          c_.kv_heads, tensor_of(rows), heads, row_bytes, nullptr));
  if (!status.ok()) return status.message();
  if (!compacted(rows.data, &AttentionInputs::v, false)) return "gather_rows";
  const HostTensor poison = StageInputs::tensor(c_, host_.starts_kv, heads);
  const DeviceTensor full(poison.view());
  status = launched("scatter", scatter_rows(sequences, selection, count, tensor_of(rows),
                                            tensor_of(full.view()), heads, row_bytes, nullptr));
  if (!status.ok()) return status.message();
  return scattered(full, rows.data) ? "" : "scatter_rows";
}

bool StageTest::compacted(const void* device, TensorView AttentionInputs::*x, bool tail) {
  std::vector<uint32_t> memory = compact_rows(device);
  const HostTensor expected(c_.dtype, Layout::kBhsd, c_.batch, layout_.capacity,
                            layout_.compact_heads, c_.dim);
  for (int64_t b = 0; b < c_.batch; ++b) {
    if (dense(b)) continue;
    const TensorView want = entry(expected.view(), b), rows = entry(compact_view(memory.data()), b);
    if (!ref::compact(host_.plan_of_sequence(plan_, b), host_.sequence(b).*x, sets_of(b), want, {})
             .ok()) {
      return false;
    }
    const int64_t behind = tail ? (kTileKv - counts_[b] % kTileKv) % kTileKv : 0;
    for (int64_t h = 0; h < layout_.compact_heads; ++h) {
      auto* head = static_cast<uint16_t*>(want.data) + h * want.strides[2];
      std::fill_n(head + counts_[b] * c_.dim, behind * c_.dim, uint16_t{0});
      if (std::memcmp(head, static_cast<uint16_t*>(rows.data) + h * rows.strides[2],
                      static_cast<size_t>((counts_[b] + behind) * c_.dim) * 2) != 0) {
        return false;
      }
    }
  }
  return true;
}

bool StageTest::scattered(const DeviceTensor& full, const void* device) {
  std::vector<uint32_t> memory = compact_rows(device);
  const HostTensor expected = StageInputs::tensor(c_, host_.starts_kv, layout_.compact_heads);
  for (int64_t b = 0; b < c_.batch; ++b) {
    if (dense(b)) continue;
    const TensorView rows = entry(compact_view(memory.data()), b);
    const TensorView want = host_.rows_of(expected, host_.starts_kv, b);
    if (!ref::scatter(host_.plan_of_sequence(plan_, b), rows, sets_of(b), want, {}).ok()) {
      return false;
    }
  }
  const std::vector<uint16_t> bits = full.bits();
  return std::memcmp(bits.data(), expected.view().data, bits.size() * 2) == 0;
}

class StageTests {
 public:
  StageTests(Runner& runner, const Device& device)
      : runner_(runner), device_(device), executor_(make_thread_pool(0)) {}

  using Score = float (*)(int head, int token);
  void run(const StageCase& c, Score crafted = nullptr) {
    const Result<Plan> plan = plan_of(c);
    if (!plan.ok()) return runner_.check(c.name, plan.status().message());
    if (plan->path != Path::kSparse) return runner_.check(c.name, "the plan is dense");
    StageTest test(c, *plan, device_, *executor_);
    std::vector<float> scores;
    if (crafted != nullptr) {
      const int64_t stride = test.prefix_stride();
      scores.assign(c.q_heads * stride, NAN);
      for (int h = 0; h < c.q_heads; ++h) {
        for (int j = 0; j < plan->prefix_len; ++j) scores[h * stride + j] = crafted(h, j);
      }
    }
    const std::string problem = test.run(crafted != nullptr ? &scores : nullptr);
    std::printf("%-4s %-28s score error %.1e, kept%s\n", problem.empty() ? "ok" : "FAIL", c.name,
                test.worst_score_error(), test.note().c_str());
    std::fflush(stdout);
    runner_.check(std::string("stages/") + c.name, problem);
  }

 private:
  Runner& runner_;
  const Device device_;
  std::unique_ptr<Executor> executor_;
};

// Scores that go straight into select.
void test_crafted(StageTests& tests) {
  StageCase c = {.name = "", .dim = 64, .q_heads = 4, .kv_heads = 2, .seqlen = 3001};
  const auto run = [&](const char* name, StageTests::Score score) {
    c.name = name;
    tests.run(c, score);
  };
  constexpr auto kFewValues = [](int h, int j) { return ((j * 7 + h) % 5) * 1e-4f; };
  for (const Arithmetic arithmetic : {Arithmetic::kFp32, kRounded}) {
    for (const Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
      c.share = share;
      c.select = config(kRatio, 0.3, 7, 8, 4, arithmetic);
      run("all equal", [](int, int) { return 1.0f / 4096; });
      run("zeros", [](int, int) { return 0.0f; });
      run("one-hot", [](int h, int j) { return j == 100 + h ? 1.0f : 0.0f; });
      run("few values", kFewValues);
      c.select = config(kTau, 0.05, 7, 8, 0, arithmetic);
      run("few values, tau", kFewValues);
      c.select.tau = 1e-9;
      run("tiny tau: drop == 0", [](int h, int j) { return (1 + (j * 7 + h) % 5) * 1e-4f; });
      run("infinite: dense", [](int, int j) { return j == 5 ? INFINITY : 1e-4f; });
    }
  }
  constexpr auto kMixed = [](int h, int j) {
    return 2e-6f * static_cast<float>((j * 2654435761u + h * 40503u) >> 8 & 0xffff) / 65536.0f;
  };
  c.seqlen = 400000;
  c.share = Share::kHead;
  c.select = config(kTau, 0.05, 7, 1024, 0);
  run("400000 tokens", kMixed);
  c.q_heads = c.kv_heads = 1;
  c.seqlen = 1048576 + 77;
  run("1M tokens", kMixed);
}

}  // namespace

void test_stages(Runner& runner) {
  const Result<Device> device = current_device();
  if (!device.ok()) return runner.check("stages", device.status().message());
  StageTests tests(runner, *device);
  for (const StageCase& c : stage_cases()) tests.run(c);
  test_crafted(tests);
}

}  // namespace tokensieve::cuda::test
