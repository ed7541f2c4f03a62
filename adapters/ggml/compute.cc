#include "compute.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <numeric>
#include <thread>

#include "host_api.h"

#ifdef _OPENMP
#include "tokensieve/executor_openmp.h"
#endif

namespace tokensieve::ggml {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr int64_t kCellsPerUnpackTask = 64;

// ggml computes with an OpenMP team where it can; ours is then the same team.
std::unique_ptr<Executor> make_executor(int num_threads) {
#ifdef _OPENMP
  return std::make_unique<OpenMpExecutor>(num_threads);
#else
  return make_thread_pool(num_threads);
#endif
}

// No cell is visible: ggml's result is zero.
void clear_rows(const TensorView& out) {
  const int64_t row = out.shape[3];
  for (int64_t i = 0; i < out.shape[1]; ++i) {
    for (int64_t h = 0; h < out.shape[2]; ++h) {
      float* data = static_cast<float*>(out.data) + i * out.strides[1] + h * out.strides[2];
      std::fill(data, data + row, 0.0f);
    }
  }
}

// Cells one after the other need no list: they are a view.
bool is_run(std::span<const int32_t> cells) {
  for (size_t i = 0; i < cells.size(); ++i) {
    if (cells[i] != cells[0] + static_cast<int32_t>(i)) return false;
  }
  return true;
}

// The tokens [first, first + count) of a sequence.
TensorView slice(TensorView x, int64_t first, int64_t count) {
  const int64_t offset = first * x.strides[1] * static_cast<int64_t>(dtype_size(x.dtype));
  x.data = static_cast<char*>(x.data) + offset;
  x.shape[1] = count;
  return x;
}

void note_products(const RunReport& run, NodeReport& report) {
  if (run.products != Products::kExact) report.products = run.products;
  if (run.products_reason != ProductsReason::kNone) {
    report.products_reason = products_reason_text(run.products_reason);
  }
}

bool call_computer(void* computer) { return static_cast<Computer*>(computer)->should_abort(); }

}  // namespace

std::span<std::byte> Scratch::bytes(size_t count) {
  if (count > size_) {
    data_.reset();  // before the new block, to keep the peak low
    size_ = 0;
    const size_t size = count + count / 4;  // chunks of a prompt grow step by step
    data_.reset(static_cast<std::byte*>(::operator new(size, kAlignment)));
    size_ = size;
  }
  return {data_.get(), count};
}

void Scratch::Free::operator()(std::byte* data) const { ::operator delete(data, kAlignment); }

Computer::Computer()
    : executor_(make_executor(static_cast<int>(std::thread::hardware_concurrency()))) {}

void Computer::set_num_threads(int num_threads) {
  num_threads = std::clamp(num_threads, 1, 4096);
  if (executor_->num_threads() != num_threads) executor_ = make_executor(num_threads);
}

void Computer::set_abort_callback(ggml_abort_callback callback, void* data) {
  abort_ = callback;
  abort_data_ = data;
}

Status Computer::compute(const Node& node, const Settings& settings) {
  const auto start = std::chrono::steady_clock::now();
  NodeReport report{.layer = node.layer};
  if (node.max_bias > 0.0f) alibi_slopes(node.num_q_heads, node.max_bias, slopes_);
  for (int64_t stream = 0; stream < node.num_streams; ++stream) {
    const MaskView mask = node.mask(stream);
    if (mask.bits != nullptr) {
      analyze_mask(mask, node.max_bias > 0.0f, *executor_, analysis_);
    } else {
      analysis_.cells.resize(static_cast<size_t>(node.num_cells));
      std::iota(analysis_.cells.begin(), analysis_.cells.end(), 0);
      analysis_.segments = {{.num_rows = node.num_queries,
                             .num_cells = node.num_cells,
                             .pairs = node.num_queries * node.num_cells}};
    }
    for (const MaskSegment& segment : analysis_.segments) {
      TOKENSIEVE_RETURN_IF_ERROR(run_segment(node, stream, segment, settings, report));
    }
  }
  const auto elapsed = std::chrono::steady_clock::now() - start;
  report.ms = std::chrono::duration<double, std::milli>(elapsed).count();
  add_to_stats(report);
  return {};
}

Status Computer::run_segment(const Node& node, int64_t stream, const MaskSegment& segment,
                             const Settings& settings, NodeReport& report) {
  if (segment.num_cells == 0) {
    clear_rows(node.out(stream, segment.first_row, segment.num_rows));
    return {};
  }
  const auto pairs = static_cast<double>(segment.pairs);
  report.dense_pairs += pairs;
  report.never_sparse = report.never_sparse || never_sparse(node, segment) != nullptr;
  const Choice choice = choose(settings, node, segment);
  if (segment.causal) return run_causal(node, stream, segment, choice, settings, report);
  report.reason = choice.reason;
  report.pairs += pairs;
  report.masked_pairs += pairs;
  return run_biased(node, stream, segment, choice, settings, report);
}

Status Computer::run_causal(const Node& node, int64_t stream, const MaskSegment& segment,
                            Choice choice, const Settings& settings, NodeReport& report) {
  AttentionShape shape = shape_of(node, segment);
  shape.seqlen_q = segment.num_rows;
  AttentionInputs inputs = inputs_of(node, stream, segment);
  inputs.q = node.q(stream, segment.first_row, segment.num_rows);
  const AttentionOutputs outputs{.out = node.out(stream, segment.first_row, segment.num_rows)};

  RunReport run;
  if (choice.sparse) {
    const Status status =
        plan_and_run(node.layer, shape, choice, settings, inputs, outputs, run);
    if (status.code() == StatusCode::kCancelled) return status;
    if (!status.ok()) {
      log_line(GGML_LOG_LEVEL_WARN, "tokensieve: layer %d runs dense: %s", node.layer,
               status.message());
      choice = {.reason = kRunFailed,
                .select = {.enabled = false},
                .blocks = {},
                .products = choice.products};
    }
  }
  if (!choice.sparse) {
    TOKENSIEVE_RETURN_IF_ERROR(
        plan_and_run(node.layer, shape, choice, settings, inputs, outputs, run));
  }
  const auto pairs = static_cast<double>(segment.pairs);
  report.pairs += run.work * pairs;
  report.masked_pairs += run.block_density * pairs;
  note_products(run, report);
  if (run.path == Path::kSparse) {
    report.sparse = true;
    report.kept += static_cast<double>(run.keep_count);
    report.tokens += static_cast<double>(segment.num_cells);
  } else {
    report.reason = choice.sparse ? dense_reason_text(run.reason) : choice.reason;
  }
  return {};
}

Status Computer::run_biased(const Node& node, int64_t stream, const MaskSegment& segment,
                            const Choice& choice, const Settings& settings, NodeReport& report) {
  const Choice all{.select = {.enabled = false}, .blocks = {}, .products = choice.products};
  AttentionShape shape = shape_of(node, segment);
  shape.causal = false;
  AttentionInputs inputs = inputs_of(node, stream, segment);
  const MaskView mask = node.mask(stream);
  const int32_t first_cell = cells_of(segment)[0];
  // The library wants no more queries than keys; a mask may show fewer cells than it has rows.
  for (int64_t done = 0; done < segment.num_rows;) {
    const int64_t row = segment.first_row + done;
    const int64_t rows = std::min(segment.num_rows - done, segment.num_cells);
    shape.seqlen_q = rows;
    inputs.q = node.q(stream, row, rows);
    if (mask.bits != nullptr) {
      inputs.bias = mask.row(row) + (inputs.kv_indices == nullptr ? first_cell : 0);
      inputs.bias_row_stride = mask.row_stride;
      inputs.bias_slopes = node.max_bias > 0.0f ? slopes_.data() : nullptr;
    }
    RunReport run;
    TOKENSIEVE_RETURN_IF_ERROR(plan_and_run(node.layer, shape, all, settings, inputs,
                                            {.out = node.out(stream, row, rows)}, run));
    note_products(run, report);
    done += rows;
  }
  return {};
}

AttentionShape Computer::shape_of(const Node& node, const MaskSegment& segment) const {
  AttentionShape shape;
  shape.seqlen_kv = segment.num_cells;
  shape.num_q_heads = node.num_q_heads;
  shape.num_kv_heads = node.num_kv_heads;
  shape.head_dim = node.head_dim;
  shape.kv_dtype = node.kv_dtype;
  shape.sm_scale = node.scale;
  shape.softcap = node.softcap;
  return shape;
}

AttentionInputs Computer::inputs_of(const Node& node, int64_t stream, const MaskSegment& segment) {
  const std::span<const int32_t> cells = cells_of(segment);
  AttentionInputs inputs;
  if (node.unpack_kv) {
    inputs.k = unpack(node, node.op->src[1], stream, cells, unpacked_k_);
    inputs.v = unpack(node, node.op->src[2], stream, cells, unpacked_v_);
  } else {
    inputs.k = node.k(stream);
    inputs.v = node.v(stream);
  }
  inputs.sink_logits = node.sinks;
  if (is_run(cells)) {
    inputs.k = slice(inputs.k, cells[0], segment.num_cells);
    inputs.v = slice(inputs.v, cells[0], segment.num_cells);
  } else {
    inputs.kv_indices = cells.data();
  }
  return inputs;
}

// Row r is cell r, as in the cache, so that masks and indices mean the same; other cells are not
// touched.
TensorView Computer::unpack(const Node& node, const ggml_tensor* source, int64_t stream,
                            std::span<const int32_t> cells, Scratch& scratch) {
  const int64_t heads = node.num_kv_heads;
  const int64_t dim = node.head_dim;
  const size_t count = static_cast<size_t>(node.num_cells) * heads * dim;
  float* out = reinterpret_cast<float*>(scratch.bytes(count * sizeof(float)).data());
  const char* data = static_cast<const char*>(source->data) + stream * source->nb[3];
  const ggml_to_float_t to_float = host().get_type_traits(source->type)->to_float;

  const auto total = static_cast<int64_t>(cells.size());
  const int64_t tasks = (total + kCellsPerUnpackTask - 1) / kCellsPerUnpackTask;
  executor_->parallel_for(tasks, [&](int64_t task, int) {
    const int64_t end = std::min(total, (task + 1) * kCellsPerUnpackTask);
    for (int64_t i = task * kCellsPerUnpackTask; i < end; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        const char* from = data + cells[i] * source->nb[1] + h * source->nb[2];
        float* to = out + (cells[i] * heads + h) * dim;
        if (to_float != nullptr) {
          to_float(from, to, dim);
        } else {
          std::memcpy(to, from, static_cast<size_t>(dim) * sizeof(float));  // f32 itself
        }
      }
    }
  });
  return bshd(out, DType::kF32, 1, node.num_cells, heads, dim);
}

Status Computer::plan_and_run(int32_t layer, const AttentionShape& shape,
                              const Choice& choice, const Settings& settings,
                              AttentionInputs inputs, const AttentionOutputs& outputs,
                              RunReport& report) {
  const Result<Plan> plan = make_plan(
      shape, choice.select, choice.blocks,
      {.backend = settings.backend,
       .num_threads = executor_->num_threads(),
       .products = choice.products});
  if (!plan.ok()) return plan.status();
  RunOptions options = {.executor = executor_.get(),
                        .should_cancel = abort_ != nullptr ? call_computer : nullptr,
                        .cancel_context = this};
  DenseReason reason = DenseReason::kNone;
  if (settings.select != nullptr && plan->path == Path::kSparse) {
    const HookCall call{.plan = *plan,
                        .inputs = inputs,
                        .workspace = [this](size_t size) { return workspace_.bytes(size); },
                        .options = options,
                        .layer = layer};
    KeepSet keep;
    TOKENSIEVE_RETURN_IF_ERROR(hook_.ask(call, settings, keep, reason));
    inputs.keep = keep;
  }
  options.report = &report;
  const Status status =
      run(*plan, inputs, outputs, workspace_.bytes(workspace_bytes(*plan)), options);
  if (reason != DenseReason::kNone) report.reason = reason;
  return status;
}

std::span<const int32_t> Computer::cells_of(const MaskSegment& segment) const {
  return {analysis_.cells.data() + segment.first_cell, static_cast<size_t>(segment.num_cells)};
}

}  // namespace tokensieve::ggml
