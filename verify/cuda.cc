// The CUDA backend on a golden case: stages on device memory, and select fed with the golden score.
#include <numeric>

#include "core/backend_table.h"
#include "cuda/device_buffer.h"
#include "cuda/layout.h"
#include "cuda/select/select.h"
#include "ref/elements.h"
#include "verify/blocks.h"
#include "verify/checks.h"

namespace tokensieve::verify {
namespace {

using cuda::DeviceBuffer;

constexpr double kScoreTolerance = 1e-5;   // f32 sums in another order
constexpr double kOutputTolerance = 5e-3;  // bf16 probabilities and outputs
constexpr double kLseTolerance = 1e-5;
constexpr double kTie = 2e-5;  // scores closer than this may swap places

class CudaChecker {
 public:
  CudaChecker(const GoldenCase& golden, const ref::OracleResult& oracle, Executor& executor)
      : golden_(golden),
        oracle_(oracle),
        executor_(executor),
        q_(golden.q),
        k_(golden.k),
        v_(golden.v) {}

  std::vector<Check> run() {
    const Result<Plan> plan = make(golden_.select);
    if (!plan.ok()) return {failed("plan", plan.status())};
    plan_ = *plan;
    TokenSets sets = sets_per_head(plan_, {});
    if (plan_.path == Path::kSparse) {
      score();
      if (!select(plan_, "select", sets)) return std::move(checks_);
      checks_.push_back(indices_check(golden_, plan_, sets, kTie));
      if (!golden_.official_indices.empty()) official();
    }
    end_to_end(sets);
    return std::move(checks_);
  }

 private:
  Result<Plan> make(const SelectConfig& select) const {
    AttentionShape shape = golden_.shape;
    shape.out_dtype = DType::kBF16;
    return make_plan(shape, select, {.backend = Backend::kCuda});
  }

  AttentionInputs inputs() const {
    AttentionInputs in = golden_.inputs();
    in.q.data = q_.data();
    in.k.data = k_.data();
    in.v.data = v_.data();
    return in;
  }

  // A workspace for the plan, full of NaN.
  std::span<std::byte> workspace(const Plan& plan) {
    workspace_ = DeviceBuffer(workspace_bytes(plan));
    workspace_.fill(0xff);
    return {workspace_.data(), workspace_.bytes()};
  }

  // Waits; whether everything worked, a failed check if not.
  bool worked(const char* stage, Status status) {
    const cudaError_t error = cudaDeviceSynchronize();
    if (status.ok() && error != cudaSuccess) {
      status = Status::error(StatusCode::kInternal, "%s", cudaGetErrorString(error));
    }
    if (!status.ok()) checks_.push_back(failed(stage, status));
    return status.ok();
  }

  void score() {
    const DeviceBuffer scores(golden_.score.size() * sizeof(float));
    if (!worked("score", backend_ops(Backend::kCuda)
                             ->score(plan_, inputs(), scores.as<float>(), workspace(plan_), {}))) {
      return;
    }
    checks_.push_back(rel_l2_check("score", scores.read<float>(), golden_.score, kScoreTolerance,
                                   {golden_.shape.num_q_heads, golden_.prefix_len()}));
  }

  // Sets of every head out of [num_sets, capacity] indices and a count, both on the device.
  TokenSets read_sets(const Plan& plan, const DeviceBuffer& indices, int64_t capacity,
                      int64_t count) const {
    const std::vector<int32_t> all = indices.read<int32_t>();
    TokenSets own;
    for (int64_t set = 0; count < plan.shape.seqlen_kv && set < plan.num_sets; ++set) {
      own.emplace_back(all.begin() + set * capacity, all.begin() + set * capacity + count);
    }
    return sets_per_head(plan, own);
  }

  // select_tokens on the inputs; false if it failed.
  bool select(const Plan& plan, const char* stage, TokenSets& sets) {
    const int64_t capacity = plan.keep_capacity();
    const DeviceBuffer indices(plan.num_sets * capacity * sizeof(int32_t)), count(sizeof(int64_t));
    const KeepSet keep = {indices.as<int32_t>(), capacity, count.as<int64_t>()};
    if (!worked(stage, select_tokens(plan, inputs(), keep, workspace(plan), {}))) return false;
    sets = read_sets(plan, indices, capacity, count.read<int64_t>()[0]);
    return true;
  }

  // reference_rounding: select fed with the golden score gives the official sets exactly; from the
  // inputs it may miss a few.
  void official() {
    SelectConfig select_config = golden_.select;
    select_config.arithmetic = Arithmetic::kReferenceRounding;
    const Result<Plan> plan = make(select_config);
    if (!plan.ok()) return checks_.push_back(failed("official", plan.status()));
    const std::span<std::byte> arena = workspace(*plan);
    const cuda::Layout layout = cuda::make_layout(*plan, 1, arena.data());
    const DeviceBuffer score(golden_.score);
    cuda::SelectParams params = cuda::select_params(*plan);
    params.token_score = score.as<float>();
    params.prefix_stride = golden_.prefix_len();
    params.mean = layout.mean;
    params.ranked = layout.ranked;
    params.scratch = layout.select_scratch;
    params.selection = {layout.indices, layout.mask, layout.rank, layout.count, plan->num_sets,
                        layout.capacity, layout.words};
    params.rule.capacity = layout.capacity;
    params.num_multiprocessors = 1;
    const DeviceBuffer count(sizeof(int64_t));
    params.public_count = count.as<int64_t>();
    const cudaError_t error = cuda::select(params, nullptr);
    const Status status = error == cudaSuccess
                              ? Status()
                              : Status::error(StatusCode::kInternal, "%s",
                                              cudaGetErrorString(error));
    if (!worked("rounding", status)) return;
    const int64_t kept = count.read<int64_t>()[0];
    std::vector<int32_t> rows(plan->num_sets * layout.capacity);
    cudaMemcpy(rows.data(), layout.indices, rows.size() * sizeof(int32_t), cudaMemcpyDeviceToHost);
    TokenSets sets;
    for (int64_t set = 0; set < plan->num_sets; ++set) {
      const auto row = rows.begin() + set * layout.capacity;
      sets.emplace_back(row, row + kept);
    }
    checks_.push_back(official_check(golden_, "rounding", 0.0, sets_per_head(*plan, sets)));
    if (select(*plan, "official", sets)) {
      checks_.push_back(official_check(golden_, "official", kOfficialMiss, sets));
    }
  }

  void end_to_end(const TokenSets& sets) {
    const AttentionShape& s = plan_.shape;
    const size_t elements = static_cast<size_t>(s.seqlen_q) * s.num_q_heads * s.head_dim;
    DeviceBuffer out(elements * 2), lse(static_cast<size_t>(s.num_q_heads * s.seqlen_q) * 4);
    out.fill(0xff);
    lse.fill(0xff);
    const AttentionOutputs outputs = {
        .out = bshd(out.data(), DType::kBF16, 1, s.seqlen_q, s.num_q_heads, s.head_dim),
        .lse = lse.as<float>()};
    const std::span<std::byte> memory = workspace(plan_);
    if (!worked("run", tokensieve::run(plan_, inputs(), outputs, memory, {}))) return;
    std::vector<float> values;
    for (uint16_t bits : out.read<uint16_t>()) {
      values.push_back(static_cast<float>(ref::decode(bits, ref::kBF16)));
    }
    const auto [expected, expected_lse] =
        expected_outputs(golden_, oracle_, plan_, sets, executor_);
    checks_.push_back(rel_l2_check("run", values, expected, kOutputTolerance,
                                   {s.seqlen_q, s.num_q_heads, s.head_dim}));
    checks_.push_back(rel_l2_check("lse", lse.read<float>(), expected_lse, kLseTolerance,
                                   {s.num_q_heads, s.seqlen_q}));
    if (golden_.select.fill == Fill::kZero) {
      checks_.push_back(zero_rows_check(golden_, sets, values));
    }
    if (golden_.pairs == 0) return;
    RunReport report;
    if (!worked("report", read_report(plan_, memory, nullptr, &report))) return;
    checks_.push_back(work_check(golden_, report.work));
  }

  const GoldenCase& golden_;
  const ref::OracleResult& oracle_;
  Executor& executor_;
  DeviceBuffer q_, k_, v_, workspace_;
  Plan plan_;
  std::vector<Check> checks_;
};

}  // namespace

std::vector<Check> check_cuda(const GoldenCase& golden, const ref::OracleResult& oracle,
                              Executor& executor) {
  return CudaChecker(golden, oracle, executor).run();
}

Status estimate_on_cuda(BlockCall& call) {
  const BlockInputs& host = call.golden.inputs;
  const DeviceBuffer q(host.q), k(host.k), indices(call.indices), scores(call.entry.scores);
  const DeviceBuffer count(std::vector<int64_t>{call.count}), bits(call.bits);
  DeviceBuffer workspace(workspace_bytes(call.plan));
  workspace.fill(0xff);
  AttentionInputs in = call.inputs();
  in.q.data = q.data();
  in.k.data = k.data();
  if (in.keep.indices != nullptr) {
    in.keep = {indices.as<int32_t>(), call.count, count.as<int64_t>()};
  }
  if (in.block_scores != nullptr) in.block_scores = scores.as<float>();
  BlockMask mask = call.mask();
  mask.bits = bits.as<uint32_t>();
  TOKENSIEVE_RETURN_IF_ERROR(
      estimate_blocks(call.plan, in, mask, {workspace.data(), workspace.bytes()}));
  if (const cudaError_t error = cudaDeviceSynchronize(); error != cudaSuccess) {
    return Status::error(StatusCode::kInternal, "%s", cudaGetErrorString(error));
  }
  call.bits = bits.read<uint32_t>();
  return {};
}

}  // namespace tokensieve::verify
