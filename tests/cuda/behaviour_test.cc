#include <algorithm>
#include <cmath>
#include <functional>
#include <sstream>

#include "core/work.h"
#include "cuda/backend_cases.h"
#include "cuda/backend_test.h"
#include "cuda/device_case.h"
#include "support/compare.h"
#include "tokensieve/tokensieve_c.h"

namespace tokensieve::cuda::test {
namespace {

using tokensieve::test::make_data;
using tokensieve::test::self_attention;

AttentionCase small_case(Fill fill, int64_t seqlen = 1700) {
  AttentionCase c;
  c.name = fill == Fill::kZero ? "zero" : "local";
  c.shape = self_attention(seqlen, 4, 2, 128);
  set_dtype(c.shape, DType::kBF16);
  c.select = matrix_select(fill, Share::kHead, BudgetPolicy::kTau, 0.05);
  return c;
}

Plan plan_of(const AttentionCase& c) {
  return make_plan(c.shape, c.select, {.backend = Backend::kCuda}).value();
}

// What a call must refuse, and a word of the message.
void expect_error(Runner& runner, const char* name, const Status& status, StatusCode code,
                  const char* word) {
  const bool ok = status.code() == code && std::string(status.message()).find(word) !=
                                               std::string::npos;
  runner.check(std::string("errors/") + name,
               ok ? "" : std::string("got \"") + status.message() + "\"");
}

void test_plan_errors(Runner& runner) {
  const auto refuse = [&](const char* name, const char* word, auto change) {
    AttentionCase c = small_case(Fill::kZero);
    change(c);
    expect_error(runner, name, make_plan(c.shape, c.select, {.backend = Backend::kCuda}).status(),
                 StatusCode::kUnsupported, word);
  };
  refuse("f32", "f16 or bf16", [](AttentionCase& c) { set_dtype(c.shape, DType::kF32); });
  refuse("mixed", "the same", [](AttentionCase& c) { c.shape.kv_dtype = DType::kF16; });
  refuse("head_dim", "64, 128, 256", [](AttentionCase& c) { c.shape.head_dim = 96; });
  refuse("not_causal", "causal", [](AttentionCase& c) { c.shape.causal = false; });
}

void test_run_errors(Runner& runner) {
  const AttentionCase c = small_case(Fill::kZero);
  const Plan plan = plan_of(c);
  CaseData data = make_data(c, 3);
  DeviceCase device(plan, data);
  const auto refuse = [&](const char* name, StatusCode code, const char* word, auto change) {
    AttentionInputs in = device.inputs();
    AttentionOutputs out = device.outputs();
    std::span<std::byte> workspace = device.workspace();
    change(in, out, workspace);
    const RunOptions options = {.stream = device.stream()};
    expect_error(runner, name, tokensieve::run(plan, in, out, workspace, options), code, word);
  };
  using In = AttentionInputs;
  using Out = AttentionOutputs;
  using Space = std::span<std::byte>;
  refuse("misaligned", StatusCode::kUnsupported, "16-byte", [](In& in, Out&, Space&) {
    in.k.data = static_cast<char*>(in.k.data) + 2;
  });
  refuse("stride", StatusCode::kUnsupported, "multiples of 8", [](In& in, Out&, Space&) {
    in.v.strides[1] += 4;
  });
  refuse("kv_indices", StatusCode::kUnsupported, "kv_indices", [](In& in, Out& out, Space&) {
    in.kv_indices = reinterpret_cast<const int32_t*>(out.lse);
    out.lse = nullptr;
  });
  refuse("workspace", StatusCode::kWorkspaceTooSmall, "workspace", [](In&, Out&, Space& space) {
    space = space.first(space.size() - 1);
  });
  refuse("cu_seqlens", StatusCode::kInvalidArgument, "not packed", [](In& in, Out& out, Space&) {
    in.cu_seqlens_q = reinterpret_cast<const int32_t*>(out.lse);
  });
  RunReport report;
  runner.check("errors/still_works", device.run().message());
  const Plan host = make_plan(c.shape, c.select, {.backend = Backend::kCpu}).value();
  expect_error(runner, "read_report_cpu",
               read_report(host, device.workspace(), nullptr, &report), StatusCode::kUnsupported,
               "complete");
}

// A captured run, replayed after the inputs changed, gives what a plain run gives.
void test_graph(Runner& runner, Fill fill) {
  const AttentionCase c = small_case(fill);
  const Plan plan = plan_of(c);
  CaseData first = make_data(c, 5), second = make_data(c, 6);
  DeviceCase device(plan, first), expected(plan, second);
  const std::string name = "graph/" + c.name;
  runner.check(name + "/eager", expected.run().message());
  runner.check(name + "/warm", device.run().message());

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal);
  const Status status = device.enqueue();
  cudaStreamEndCapture(device.stream(), &graph);
  runner.check(name + "/capture", status.message());
  cudaError_t error = cudaGraphInstantiate(&replay, graph, 0);
  if (error == cudaSuccess) {
    std::swap(first.q, second.q);
    std::swap(first.k, second.k);
    std::swap(first.v, second.v);
    AttentionInputs in = device.inputs();
    cudaMemcpy(in.q.data, first.q.view().data, first.q.size() * 2, cudaMemcpyHostToDevice);
    cudaMemcpy(in.k.data, first.k.view().data, first.k.size() * 2, cudaMemcpyHostToDevice);
    cudaMemcpy(in.v.data, first.v.view().data, first.v.size() * 2, cudaMemcpyHostToDevice);
    device.poison(0xff);
    error = cudaGraphLaunch(replay, device.stream());
    if (error == cudaSuccess) error = cudaStreamSynchronize(device.stream());
  }
  const bool same = error == cudaSuccess && device.out_bits() == expected.out_bits() &&
                    device.lse_bits() == expected.lse_bits();
  runner.check(name + "/replay", error != cudaSuccess ? cudaGetErrorString(error)
                                 : same               ? ""
                                                      : "a replay gives other bits");
  if (replay != nullptr) cudaGraphExecDestroy(replay);
  if (graph != nullptr) cudaGraphDestroy(graph);
}

// A captured run with given sets follows what lies in them at the replay.
void test_given_graph(Runner& runner) {
  const AttentionCase c = small_case(Fill::kLocal);
  const Plan plan = plan_of(c);
  CaseData data = make_data(c, 5);
  DeviceCase device(plan, data);
  DeviceSets chosen, fewer;
  runner.check("given_graph/select", device.select(chosen).message());
  fewer = chosen;
  for (auto& set : fewer.kept[0]) set.erase(set.begin(), set.begin() + 7);
  fewer.count[0] -= 7;
  GivenSets given(plan, chosen);
  for (auto& set : fewer.kept[0]) set.resize(set.size() + 7, -1);  // the same capacity
  const GivenSets later(plan, fewer);
  device.poison(0xff);
  Status status = device.enqueue_given(later.view());
  if (status.ok()) status = device.wait();
  runner.check("given_graph/eager", status.message());
  const std::vector<uint16_t> expected = device.out_bits();

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal);
  status = device.enqueue_given(given.view());
  cudaStreamEndCapture(device.stream(), &graph);
  runner.check("given_graph/capture", status.message());
  cudaError_t error = cudaGraphInstantiate(&replay, graph, 0);
  given.assign(later);
  device.poison(0xff);
  if (error == cudaSuccess) error = cudaGraphLaunch(replay, device.stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(device.stream());
  runner.check("given_graph/replay", error != cudaSuccess ? cudaGetErrorString(error)
                                     : device.out_bits() == expected
                                         ? ""
                                         : "a replay gives other bits");
  if (replay != nullptr) cudaGraphExecDestroy(replay);
  if (graph != nullptr) cudaGraphDestroy(graph);
}

// Two calls in flight at once give what each gives alone, 20 times.
void test_streams(Runner& runner) {
  const AttentionCase zero = small_case(Fill::kZero), local = small_case(Fill::kLocal, 2300);
  const Plan zero_plan = plan_of(zero), local_plan = plan_of(local);
  CaseData zero_data = make_data(zero, 8), local_data = make_data(local, 9);
  DeviceCase a(zero_plan, zero_data), b(local_plan, local_data);
  runner.check("streams/alone", std::string(a.run().message()) + b.run().message());
  const auto a_bits = a.out_bits(), b_bits = b.out_bits();
  int different = 0;
  Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) {
    a.poison(0xff);
    b.poison(0xff);
    for (DeviceCase* device : {&a, &b}) {
      if (status.ok()) status = device->enqueue();
    }
    for (DeviceCase* device : {&a, &b}) {
      if (status.ok()) status = device->wait();
    }
    different += a.out_bits() != a_bits || b.out_bits() != b_bits;
  }
  runner.check("streams/together", status.message());
  runner.check("streams/bits", different == 0 ? "" : std::to_string(different) + " of 20 differ");
}

TensorView rows_of(const TensorView& x, int64_t begin, int64_t rows) {
  TensorView view = x;
  view.data = static_cast<uint16_t*>(x.data) + begin * x.strides[1];
  view.shape[1] = rows;
  return view;
}

// Begins of packed sequences.
std::vector<int32_t> cu_seqlens_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> cu = {0};
  for (int32_t length : lengths) cu.push_back(cu.back() + length);
  return cu;
}

// Packed sequences against the same sequences one by one: `queries` of `tokens` each.
void test_packed(Runner& runner, const SelectConfig& select, const char* name,
                 const std::vector<int32_t>& queries, const std::vector<int32_t>& tokens) {
  const std::vector<int32_t> cu_q = cu_seqlens_of(queries), cu_kv = cu_seqlens_of(tokens);
  AttentionCase all = small_case(Fill::kZero, cu_kv.back());
  all.shape.seqlen_q = cu_q.back();
  CaseData data = make_data(all, 21);
  AttentionShape shape = all.shape;
  shape.packed = true;
  shape.batch = static_cast<int64_t>(tokens.size());
  shape.seqlen_q = *std::max_element(queries.begin(), queries.end());
  shape.seqlen_kv = *std::max_element(tokens.begin(), tokens.end());
  const Result<Plan> plan = make_plan(shape, select, {.backend = Backend::kCuda});
  const std::string label = std::string("packed/") + name;
  if (!plan.ok()) return runner.check(label, plan.status().message());
  DeviceCase device(*plan, data);
  const DeviceBuffer cu_q_device(cu_q), cu_kv_device(cu_kv);
  AttentionInputs in = device.inputs();
  in.cu_seqlens_q = cu_q_device.as<int32_t>();
  in.cu_seqlens_kv = cu_kv_device.as<int32_t>();
  device.poison(0xff);
  Status status = tokensieve::run(*plan, in, device.outputs(), device.workspace(),
                                  {.stream = device.stream()});
  if (status.ok()) status = device.wait();
  if (!status.ok()) return runner.check(label, status.message());
  device.fetch();
  const std::vector<double> packed = data.out_values();
  const std::vector<float> packed_lse = data.lse;
  RunReport report;
  runner.check(label + "/report", read_report(*plan, device.workspace(), device.stream(),
                                              &report).message());

  device.poison(0xff);
  const int64_t total = cu_q.back();
  int64_t kept = 0;
  double pairs = 0, dense = 0;
  std::vector<double> lse, expected_lse;
  for (size_t b = 0; b < tokens.size() && status.ok(); ++b) {
    if (queries[b] == 0) continue;
    AttentionShape one = all.shape;
    one.seqlen_q = queries[b];
    one.seqlen_kv = tokens[b];
    SelectConfig own = select;
    const bool kept_rows = select.queries == Queries::kKept;
    if (select.fill == Fill::kZero && kept_rows && queries[b] < tokens[b]) own.enabled = false;
    const Plan single = make_plan(one, own, {.backend = Backend::kCuda}).value();
    const DeviceBuffer workspace(workspace_bytes(single)), own_lse(size_t{4} * 4 * queries[b]);
    AttentionInputs from = device.inputs();
    from.q = rows_of(from.q, cu_q[b], queries[b]);
    for (TensorView* view : {&from.k, &from.v}) *view = rows_of(*view, cu_kv[b], tokens[b]);
    const std::span<std::byte> memory = {workspace.data(), workspace.bytes()};
    status = tokensieve::run(single, from,
                             {.out = rows_of(device.outputs().out, cu_q[b], queries[b]),
                              .lse = own_lse.as<float>()},
                             memory, {.stream = device.stream()});
    if (status.ok()) status = device.wait();
    RunReport own_report;
    if (status.ok()) status = read_report(single, memory, device.stream(), &own_report);
    kept += own_report.keep_count;
    pairs += own_report.work * dense_pairs(one);
    dense += dense_pairs(one);
    const std::vector<float> values = own_lse.read<float>();
    for (int h = 0; h < 4; ++h) {
      for (int64_t i = 0; i < queries[b]; ++i) {
        lse.push_back(packed_lse[h * total + cu_q[b] + i]);
        expected_lse.push_back(values[h * queries[b] + i]);
      }
    }
  }
  if (plan->path == Path::kDense) kept = -1;  // dense packed plans leave no lengths behind
  runner.check(label + "/kept", report.keep_count == kept
                                    ? ""
                                    : "keeps " + std::to_string(report.keep_count) + ", not " +
                                          std::to_string(kept));
  // A batch splits the keys of score otherwise, so that a near tie may be chosen otherwise.
  const double work = pairs / dense;
  const bool same_work = plan->path == Path::kDense || std::abs(report.work - work) < 1e-3;
  runner.check(label + "/work", same_work ? "" : std::to_string(report.work) + ", not " +
                                                     std::to_string(work));
  device.fetch();
  runner.check(label + "/single", status.message());
  const auto same = tokensieve::test::close(packed, data.out_values(), 5e-3,
                                            {total, all.shape.num_q_heads, all.shape.head_dim});
  runner.check(label + "/out", same ? "" : same.message());
  const auto same_lse = tokensieve::test::close(lse, expected_lse, 1e-3, {4 * total}, 0.02);
  runner.check(label + "/lse", same_lse ? "" : same_lse.message());
}

void test_packed_kinds(Runner& runner) {
  const std::vector<int32_t> whole = {1500, 257, 100, 2048, 1};
  // Chunks, one without rows, one of few, one token, and a prompt's first chunk.
  const std::vector<int32_t> queries = {700, 0, 100, 512, 1, 900};
  const std::vector<int32_t> tokens = {1500, 257, 1700, 2048, 900, 900};
  SelectConfig zero = matrix_select(Fill::kZero, Share::kHead, BudgetPolicy::kTau, 0.05);
  const SelectConfig local =
      matrix_select(Fill::kLocal, Share::kLayer, BudgetPolicy::kKeepRatio, 0.3);
  test_packed(runner, {.enabled = false}, "dense", whole, whole);
  test_packed(runner, {.enabled = false}, "dense_chunks", queries, tokens);
  test_packed(runner, zero, "zero", whole, whole);
  test_packed(runner, zero, "zero_chunks", queries, tokens);
  test_packed(runner, local, "local", whole, whole);
  test_packed(runner, local, "local_chunks", queries, tokens);
  zero.queries = Queries::kAll;
  test_packed(runner, zero, "all", whole, whole);
  test_packed(runner, zero, "all_chunks", queries, tokens);
  zero.budget = BudgetPolicy::kKeepRatio;
  zero.share = Share::kKv;
  test_packed(runner, zero, "all_chunks_kv", queries, tokens);
}

// The C ABI on device memory gives the bits of the C++ surface.
void test_c_abi(Runner& runner) {
  const AttentionCase c = small_case(Fill::kLocal);
  const Plan plan = plan_of(c);
  CaseData data = make_data(c, 31);
  DeviceCase device(plan, data);
  runner.check("c_abi/cpp", device.run().message());
  const auto expected = device.out_bits();
  device.poison(0xff);

  tokensieve_shape shape;
  tokensieve_shape_init(&shape);
  shape.seqlen_q = shape.seqlen_kv = c.shape.seqlen_kv;
  shape.num_q_heads = c.shape.num_q_heads;
  shape.num_kv_heads = c.shape.num_kv_heads;
  shape.head_dim = c.shape.head_dim;
  shape.dtype = shape.kv_dtype = shape.out_dtype = TOKENSIEVE_BF16;
  tokensieve_select select;
  tokensieve_select_init(&select);
  select.fill = TOKENSIEVE_FILL_LOCAL;
  select.tau = c.select.tau;
  select.min_keep = c.select.min_keep;
  select.dense_policy = TOKENSIEVE_DENSE_NEVER;
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.backend = TOKENSIEVE_BACKEND_CUDA;
  tokensieve_status status;
  tokensieve_status_init(&status);
  tokensieve_plan* c_plan = nullptr;
  tokensieve_make_plan(&shape, &select, &options, &c_plan, &status);
  runner.check("c_abi/make_plan", status.message);

  const auto tensor = [](const TensorView& view) {
    tokensieve_tensor t;
    tokensieve_tensor_init_bshd(&t, view.data, TOKENSIEVE_BF16, view.shape[0], view.shape[1],
                                view.shape[2], view.shape[3]);
    return t;
  };
  const tokensieve_tensor q = tensor(device.inputs().q), k = tensor(device.inputs().k),
                          v = tensor(device.inputs().v), out = tensor(device.outputs().out);
  tokensieve_inputs inputs;
  tokensieve_inputs_init(&inputs);
  inputs.q = &q;
  inputs.k = &k;
  inputs.v = &v;
  tokensieve_outputs outputs;
  tokensieve_outputs_init(&outputs);
  outputs.out = &out;
  tokensieve_run_options run_options;
  tokensieve_run_options_init(&run_options);
  run_options.stream = device.stream();
  tokensieve_run(c_plan, &inputs, &outputs, device.workspace().data(), device.workspace().size(),
                 &run_options, &status);
  runner.check("c_abi/run", status.message);
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_read_report(c_plan, device.workspace().data(), device.workspace().size(),
                         device.stream(), &report, &status);
  runner.check("c_abi/read_report", status.message);
  runner.check("c_abi/bits", device.out_bits() == expected ? "" : "other bits than C++");
  tokensieve_plan_free(c_plan);
}

// The workspace is compact K and V plus at most 2 %; short prompts run dense.
void test_plans(Runner& runner) {
  AttentionShape shape = self_attention(131072, 32, 8, 128);
  set_dtype(shape, DType::kBF16);
  for (double min_drop : {0.0, 0.5}) {
    SelectConfig select;
    select.min_drop = min_drop;
    const Plan plan = make_plan(shape, select, {.backend = Backend::kCuda}).value();
    const double rows = static_cast<double>(plan.max_keep + select.obs_window);
    const double compact = rows * 32 * 128 * 2 * 2;
    const double ratio = static_cast<double>(plan.workspace) / compact;
    std::printf("workspace at 128K, min_drop %g: %.1f MB, %.4f of compact K and V\n", min_drop,
                static_cast<double>(plan.workspace) / 1e6, ratio);
    runner.check("plans/workspace", ratio <= 1.02 ? "" : "over 2 %");
  }
  shape = self_attention(300, 32, 8, 128);
  set_dtype(shape, DType::kBF16);
  SelectConfig select;
  select.min_keep = 0;
  const Plan plan = make_plan(shape, select, {.backend = Backend::kCuda}).value();
  runner.check("plans/break_even", plan.reason == DenseReason::kBreakEven
                                       ? "" : dense_reason_text(plan.reason));
}

}  // namespace

void test_behaviour(Runner& runner) {
  test_plan_errors(runner);
  test_run_errors(runner);
  for (Fill fill : {Fill::kZero, Fill::kLocal}) test_graph(runner, fill);
  test_given_graph(runner);
  test_streams(runner);
  test_packed_kinds(runner);
  test_c_abi(runner);
  test_plans(runner);
}

}  // namespace tokensieve::cuda::test
