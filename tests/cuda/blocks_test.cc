// Attention under block masks: given masks and scores against the oracle, masks that leave nothing
// out against attention without one, graphs.
#include <memory>

#include "cuda/backend_test.h"
#include "cuda/blocks_data.h"
#include "support/compare.h"
#include "tokensieve/executor.h"

namespace tokensieve::cuda::test {
namespace {

using tokensieve::test::make_data;
using tokensieve::test::Random;

struct Results {
  std::vector<uint16_t> out;
  std::vector<uint32_t> lse;
  bool operator==(const Results&) const = default;
};

// A case's tensors, run under one mask after the other.
class BlockTest {
 public:
  BlockTest(Runner& runner, const BlockCase& c, const Plan& plan)
      : runner_(runner),
        c_(c),
        plan_(plan),
        masked_(c, plan),
        data_(spoilt_data()),
        device_(plan, data_),
        extras_(c, plan, masked_) {}

  void run(Bits bits) {
    const int index = static_cast<int>(bits);
    name_ = text("blocks/", c_.name, "_d", c_.shape.head_dim, "/", kBitsNames[index]);
    std::vector<uint32_t> words = masked_.draw_bits(bits, 100 + index);
    extras_.set_bits(words);
    Results first, second;
    if (!run_once(0xff, first)) return;
    device_.fetch();
    check_result(words);
    if (run_once(0x7f, second)) {
      check("rerun", first == second ? "" : "a second run gives other bits");
    }
    if (bits == Bits::kFull && !c_.nan_tile) check_dense(first);
  }

  // A captured call follows the mask that lies in memory when it is replayed.
  void run_graph() {
    name_ = "blocks/graph/" + c_.name;
    const std::vector<uint32_t> words = masked_.draw_bits(Bits::kTenth, 1);
    extras_.set_bits(masked_.draw_bits(Bits::kHalf, 2));
    Results expected, actual;
    if (!run_once(0xff, expected)) return;
    extras_.set_bits(words);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal);
    check("capture", enqueue().message());
    cudaStreamEndCapture(device_.stream(), &graph);
    cudaError_t error = cudaGraphInstantiate(&replay, graph, 0);
    extras_.set_bits(masked_.draw_bits(Bits::kHalf, 2));
    device_.poison(0xff);
    for (int i = 0; i < 2 && error == cudaSuccess; ++i) {
      error = cudaGraphLaunch(replay, device_.stream());
    }
    if (error == cudaSuccess) error = cudaStreamSynchronize(device_.stream());
    check("replay", error != cudaSuccess ? cudaGetErrorString(error)
                    : results() == expected ? "" : "a replay gives other bits");
    if (replay != nullptr) cudaGraphExecDestroy(replay);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }

  // Scores choose the tiles that a mask of the same bits names.
  void run_scores(const Plan& given_plan) {
    name_ = "blocks/scores/" + c_.name;
    Random random(9);
    const int64_t columns = tiles_of(plan_.shape.seqlen_kv);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> scores(plan_.shape.batch * plan_.num_masks * plan_.row_tiles * columns);
    for (float& x : scores) x = static_cast<float>(random.below(8)) / 8;
    scores[scores.size() / 2] = nan;
    std::vector<float> thresholds;
    for (int32_t m = 0; m < plan_.num_masks; ++m) thresholds.push_back(m % 2 == 0 ? 0.5f : 0.25f);
    std::vector<uint32_t> words(plan_.shape.batch * plan_.num_masks * plan_.row_tiles *
                                plan_.mask_words);
    for (int64_t row = 0; row < static_cast<int64_t>(scores.size()) / columns; ++row) {
      const float own = thresholds[row / plan_.row_tiles % plan_.num_masks];
      for (int64_t t = 0; t < columns; ++t) {
        if (scores[row * columns + t] > own) {
          words[row * plan_.mask_words + t / 32] |= 1u << t % 32;
        }
      }
    }
    const DeviceBuffer device_scores(scores), device_thresholds(thresholds);
    AttentionInputs in = extras_.added_to(device_.inputs());
    in.block_scores = device_scores.as<float>();
    in.block_thresholds = device_thresholds.as<float>();
    device_.poison(0xff);
    check("run", run_with(plan_, in));
    const Results chosen = results();

    in.block_scores = in.block_thresholds = nullptr;
    const DeviceBuffer device_bits(words);
    in.block_mask = {device_bits.as<uint32_t>(), plan_.row_tiles, plan_.mask_words,
                     plan_.num_masks};
    device_.poison(0xff);
    check("given", run_with(given_plan, in));
    check("bits", results() == chosen ? "" : "scores and their bits differ");

    in.block_mask = {};
    in.block_scores = device_scores.as<float>();
    in.block_thresholds = device_thresholds.as<float>();
    DeviceBuffer estimated(words.size() * sizeof(uint32_t));
    estimated.fill(0xff);
    device_.poison(0xff);
    Status status = estimate_blocks(
        plan_, in, {estimated.as<uint32_t>(), plan_.row_tiles, plan_.mask_words, plan_.num_masks},
        device_.workspace(), {.stream = device_.stream()});
    if (status.ok()) status = device_.wait();
    check("estimate", status.ok() ? check_estimate(words, estimated.read<uint32_t>())
                                  : status.message());
  }

 private:
  void check(const char* what, const std::string& problem) {
    runner_.check(name_ + "/" + what, problem);
  }

  CaseData spoilt_data() const {
    CaseData data = make_data(tensors_of(c_), 41);
    masked_.spoil(data);
    return data;
  }

  std::string run_with(const Plan& plan, const AttentionInputs& in) {
    Status status = tokensieve::run(plan, in, device_.outputs(), device_.workspace(),
                                    {.stream = device_.stream()});
    if (status.ok()) status = device_.wait();
    return status.ok() ? "" : status.message();
  }
  Status enqueue() {
    return tokensieve::run(plan_, extras_.added_to(device_.inputs()), device_.outputs(),
                           device_.workspace(), {.stream = device_.stream()});
  }
  Results results() const { return {device_.out_bits(), device_.lse_bits()}; }
  bool run_once(int poison, Results& to) {
    device_.poison(poison);
    const std::string problem = run_with(plan_, extras_.added_to(device_.inputs()));
    check("run", problem);
    to = results();
    return problem.empty();
  }

  void check_result(std::vector<uint32_t>& words) {
    const Plan ref = plan_of(c_, BlockPattern::kGiven, Backend::kRef).value();
    const AttentionCase all = tensors_of(c_);
    std::vector<float> out(data_.out.size()), lse(data_.lse.size());
    const AttentionOutputs outputs = {
        .out = bshd(out.data(), DType::kF32, all.shape.batch, all.shape.seqlen_q,
                    all.shape.num_q_heads, all.shape.head_dim),
        .lse = lse.data()};
    HostKeep keep(ref, masked_.sets());
    AttentionInputs in = data_.inputs();
    in.block_mask = masked_.mask(words);
    if (ref.path == Path::kSparse) in.keep = keep.view();
    const std::vector<int32_t> cu_q = begins_of(c_.queries), cu_kv = begins_of(c_.tokens);
    if (!c_.tokens.empty()) {
      in.cu_seqlens_q = cu_q.data();
      in.cu_seqlens_kv = cu_kv.data();
    }
    std::vector<std::byte> workspace(workspace_bytes(ref));
    RunReport expected, report;
    Status status = tokensieve::run(ref, in, outputs, workspace, {.report = &expected});
    check("oracle", status.message());
    if (!status.ok()) return;
    const double tolerance = c_.shape.dtype == DType::kBF16 ? 5e-3 : 1e-3;
    const AttentionShape& s = all.shape;
    const auto same = tokensieve::test::close(data_.out_values(), out, tolerance,
                                              {s.batch, s.seqlen_q, s.num_q_heads, s.head_dim});
    check("out", same ? "" : same.message());
    const auto same_lse = tokensieve::test::close(data_.lse, lse, 1e-3,
                                                  {s.batch, s.num_q_heads, s.seqlen_q}, 0.02);
    check("lse", same_lse ? "" : same_lse.message());
    status = read_report(plan_, device_.workspace(), device_.stream(), &report);
    check("read_report", status.message());
    check("density", std::fabs(report.block_density - expected.block_density) < 1e-12
                         ? "" : text(report.block_density, ", not ", expected.block_density));
    check("work", std::fabs(report.work - expected.work) < 1e-9
                      ? "" : text(report.work, ", not ", expected.work));
  }

  // No mask at all gives the bits of one that leaves nothing out.
  void check_dense(const Results& masked) {
    const Plan dense = plan_of(c_, BlockPattern::kNone).value();
    AttentionInputs in = extras_.added_to(device_.inputs());
    in.block_mask = {};
    device_.poison(0xff);
    check("dense", run_with(dense, in));
    check("dense_bits", results() == masked ? "" : "a full mask and none give other bits");
  }

  // Equal where a pair is visible; the newest rows' tiles are all set.
  std::string check_estimate(const std::vector<uint32_t>& words, std::vector<uint32_t> estimated) {
    std::vector<uint32_t> expected = words;
    for (int64_t b = 0; b < masked_.sequences(); ++b) {
      for (int64_t m = 0; m < plan_.num_masks; ++m) {
        const TileGrid grid = masked_.grid(b, m);
        const MaskRows from = mask_rows(masked_.mask(expected), b, m);
        const MaskRows to = mask_rows(masked_.mask(estimated), b, m);
        for (int64_t t = 0; t < grid.row_tiles(); ++t) {
          const bool newest = grid.row_end(t) > grid.keys - c_.dense_rows;
          for (int64_t k = 0; k < grid.end(t); ++k) {
            if (to.get(t, k) != (newest || from.get(t, k))) {
              return text("sequence ", b, " mask ", m, " tile ", t, ", ", k);
            }
          }
        }
      }
    }
    return "";
  }

  Runner& runner_;
  const BlockCase& c_;
  const Plan& plan_;
  Masked masked_;
  CaseData data_;
  DeviceCase device_;
  DeviceExtras extras_;
  std::string name_;
};

void test_block_case(Runner& runner, const BlockCase& c) {
  const Result<Plan> plan = plan_of(c, BlockPattern::kGiven);
  if (!plan.ok()) return runner.check("blocks/" + c.name, plan.status().message());
  const bool sparse = c.select.enabled;
  runner.check("blocks/" + c.name + "/path",
               (plan->path == Path::kSparse) == sparse ? "" : dense_reason_text(plan->reason));
  BlockTest test(runner, c, *plan);
  for (int bits = c.first_bits; bits < kNumBits; bits += c.bits_stride) {
    test.run(static_cast<Bits>(bits));
  }
}

void test_scores(Runner& runner, const BlockCase& c) {
  const Result<Plan> plan = plan_of(c, BlockPattern::kScores);
  const Result<Plan> given = plan_of(c, BlockPattern::kGiven);
  if (!plan.ok() || !given.ok()) {
    return runner.check("blocks/scores/" + c.name, plan.status().message());
  }
  BlockTest(runner, c, *plan).run_scores(*given);
}

void test_block_graph(Runner& runner, const BlockCase& c) {
  const Result<Plan> plan = plan_of(c, BlockPattern::kGiven);
  if (!plan.ok()) return runner.check("blocks/graph/" + c.name, plan.status().message());
  BlockTest(runner, c, *plan).run_graph();
}

}  // namespace

void test_blocks(Runner& runner, int num_threads, const char* filter) {
  std::vector<BlockCase> cases;
  for (auto&& more : {dense_block_cases(), sparse_block_cases()}) {
    for (const BlockCase& c : more) {
      if (filter == nullptr || ("blocks/" + c.name).find(filter) != std::string::npos) {
        cases.push_back(c);
      }
    }
  }
  const std::unique_ptr<Executor> executor = make_thread_pool(num_threads);
  executor->parallel_for(static_cast<int64_t>(cases.size()), [&](int64_t i, int) {
    test_block_case(runner, cases[i]);
    if (cases[i].tokens.empty() && !cases[i].nan_tile) test_scores(runner, cases[i]);
  });
  for (const BlockCase& c : cases) {
    if (c.name == "n600" || c.name.starts_with("local_suffix")) test_block_graph(runner, c);
  }
}

}  // namespace tokensieve::cuda::test
