// Heads split over ranks: threads with streams of their own on one device, whose all-gather copies
// between them without waiting on the host.
#include <barrier>
#include <cstring>
#include <string>

#include "cuda/backend_cases.h"
#include "cuda/backend_test.h"
#include "cuda/device_case.h"
#include "support/ranks.h"

namespace tokensieve::cuda::test {
namespace {

using tokensieve::test::for_ranks;
using tokensieve::test::heads_of_rank;
using tokensieve::test::inputs_of_rank;
using tokensieve::test::make_data;
using tokensieve::test::self_attention;
using tokensieve::test::shape_of_rank;

class DeviceGather {
 public:
  explicit DeviceGather(int num_ranks)
      : barrier_(num_ranks), data_(num_ranks), filled_(num_ranks), copied_(num_ranks) {
    for (cudaEvent_t& event : filled_) cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    for (cudaEvent_t& event : copied_) cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  }
  ~DeviceGather() {
    for (cudaEvent_t event : filled_) cudaEventDestroy(event);
    for (cudaEvent_t event : copied_) cudaEventDestroy(event);
  }
  DeviceGather(const DeviceGather&) = delete;

  struct Rank {
    DeviceGather* all;
    int rank;
  };
  static bool gather(void* context, void* data, size_t bytes, void* stream) {
    const Rank& own = *static_cast<Rank*>(context);
    return own.all->exchange(own.rank, static_cast<char*>(data), bytes,
                             static_cast<cudaStream_t>(stream));
  }

 private:
  bool exchange(int rank, char* data, size_t bytes, cudaStream_t stream) {
    data_[rank] = data;
    cudaEventRecord(filled_[rank], stream);
    barrier_.arrive_and_wait();
    for (size_t other = 0; other < data_.size(); ++other) {
      if (static_cast<int>(other) == rank) continue;
      cudaStreamWaitEvent(stream, filled_[other]);
      cudaMemcpyAsync(data + other * bytes, data_[other] + other * bytes, bytes,
                      cudaMemcpyDeviceToDevice, stream);
    }
    cudaEventRecord(copied_[rank], stream);
    barrier_.arrive_and_wait();
    // The scores' memory is used again behind select.
    for (const cudaEvent_t event : copied_) cudaStreamWaitEvent(stream, event);
    barrier_.arrive_and_wait();
    return cudaGetLastError() == cudaSuccess;
  }

  std::barrier<> barrier_;
  std::vector<char*> data_;
  std::vector<cudaEvent_t> filled_, copied_;
};

// What one rank chose: [batch, num_sets, capacity], poisoned where it wrote nothing.
struct Chosen {
  std::vector<int32_t> indices;
  std::vector<int64_t> count;
};

Status run_rank(const AttentionCase& c, DeviceCase& device, int rank, int num_ranks,
                DeviceGather& all, Chosen& chosen) {
  const Result<Plan> plan =
      make_plan(shape_of_rank(c.shape, num_ranks), c.select,
                {.backend = Backend::kCuda, .num_ranks = num_ranks, .rank = rank});
  if (!plan.ok()) return plan.status();
  const DeviceBuffer workspace(workspace_bytes(*plan));
  const std::span<std::byte> arena = {workspace.data(), workspace.bytes()};
  const int64_t capacity = plan->keep_capacity();
  DeviceBuffer indices(static_cast<size_t>(c.shape.batch * plan->num_sets * capacity) * 4);
  const DeviceBuffer count(static_cast<size_t>(c.shape.batch) * 8);
  indices.fill(0xff);
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  DeviceGather::Rank own{&all, rank};
  const RunOptions options = {
      .stream = stream, .all_gather = DeviceGather::gather, .gather_context = &own};
  const AttentionInputs in = inputs_of_rank(device.inputs(), rank, num_ranks);
  const TensorView out = heads_of_rank(device.outputs().out, rank, num_ranks);
  Status status = select_tokens(*plan, in, {indices.as<int32_t>(), capacity, count.as<int64_t>()},
                                arena, options);
  if (status.ok()) status = tokensieve::run(*plan, in, {.out = out}, arena, options);
  const cudaError_t error = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  if (status.ok() && error != cudaSuccess) {
    status = Status::error(StatusCode::kInternal, "device: %s", cudaGetErrorString(error));
  }
  chosen = {indices.read<int32_t>(), count.read<int64_t>()};
  return status;
}

std::vector<Chosen> run_ranks(Runner& runner, const AttentionCase& c, DeviceCase& device,
                              int num_ranks) {
  device.poison(0xff);
  DeviceGather all(num_ranks);
  std::vector<Chosen> chosen(num_ranks);
  for_ranks(num_ranks, [&](int rank) {
    const Status status = run_rank(c, device, rank, num_ranks, all, chosen[rank]);
    runner.check(c.name + "/ranks" + std::to_string(num_ranks), status.message());
  });
  return chosen;
}

// Counts, sets and outputs of 2, 3 and 4 ranks are those of one.
void test_case(Runner& runner, const AttentionCase& c) {
  const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kCuda}).value();
  CaseData data = make_data(c, 41);
  DeviceCase device(plan, data);
  const Chosen one = run_ranks(runner, c, device, 1).front();
  const std::vector<uint16_t> out = device.out_bits();
  for (const int num_ranks : {2, 3, 4}) {
    if (c.shape.num_kv_heads % num_ranks != 0) continue;
    const std::string name = c.name + "/ranks" + std::to_string(num_ranks);
    const std::vector<Chosen> ranks = run_ranks(runner, c, device, num_ranks);
    runner.check(name + "/out", device.out_bits() == out ? "" : "other bits than one rank");
    const size_t all_rows = one.indices.size() / c.shape.batch;
    for (int rank = 0; rank < num_ranks; ++rank) {
      runner.check(name + "/count", ranks[rank].count == one.count ? "" : "other counts");
      const size_t rows = ranks[rank].indices.size() / c.shape.batch;
      const size_t first = c.select.share == Share::kLayer ? 0 : rank * rows;
      bool same = true;
      for (int64_t b = 0; b < c.shape.batch; ++b) {
        same = same && std::equal(ranks[rank].indices.begin() + b * rows,
                                  ranks[rank].indices.begin() + (b + 1) * rows,
                                  one.indices.begin() + b * all_rows + first);
      }
      runner.check(name + "/sets", same ? "" : "other sets than one rank");
    }
  }
}

}  // namespace

void test_ranks(Runner& runner) {
  const auto test = [&](const char* name, const SelectConfig& select, auto change) {
    AttentionCase c = {.name = std::string("ranks/") + name,
                       .shape = self_attention(3000, 24, 12, 64),
                       .select = select};
    set_dtype(c.shape, DType::kBF16);
    change(c);
    test_case(runner, c);
  };
  using Case = AttentionCase;
  constexpr auto kTau = BudgetPolicy::kTau;
  const auto plain = [](Case&) {};
  test("tau_head", matrix_select(Fill::kZero, Share::kHead, kTau, 0.05), plain);
  test("tau_kv", matrix_select(Fill::kZero, Share::kKv, kTau, 0.05), plain);
  test("tau_layer_batch", matrix_select(Fill::kLocal, Share::kLayer, kTau, 0.05),
       [](Case& c) { c.shape.batch = 2; });
  test("ratio_layer", matrix_select(Fill::kLocal, Share::kLayer, BudgetPolicy::kKeepRatio, 0.2),
       [](Case& c) { c.shape.head_dim = 128; });
  test("chunk", matrix_select(Fill::kZero, Share::kLayer, kTau, 0.05), [](Case& c) {
    c.select.queries = Queries::kAll;
    c.shape.seqlen_q = 700;
  });
  test("rounding", matrix_select(Fill::kZero, Share::kHead, kTau, 0.05), [](Case& c) {
    c.select.arithmetic = Arithmetic::kReferenceRounding;
  });
  test("one_kv_head_a_rank", matrix_select(Fill::kZero, Share::kKv, kTau, 0.05), [](Case& c) {
    c.shape.num_kv_heads = 4;
    c.shape.num_q_heads = 16;
  });
  test("nan", matrix_select(Fill::kZero, Share::kHead, BudgetPolicy::kKeepRatio, 0.3),
       [](Case& c) { c.content = Content::kNanInK; });
}

}  // namespace tokensieve::cuda::test
