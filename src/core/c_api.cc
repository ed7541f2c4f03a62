// The C ABI: converts, calls the C++ surface, reports. Nothing throws past it.
#include <cstddef>
#include <memory>

#include "core/c_call.h"
#include "tokensieve/names.h"

using namespace tokensieve;

struct tokensieve_plan {
  Plan plan;
};

struct tokensieve_thread_pool {
  std::unique_ptr<Executor> executor;
};

namespace {

// The caller's callbacks as an Executor.
class CExecutor final : public Executor {
 public:
  explicit CExecutor(const tokensieve_executor& callbacks) : callbacks_(callbacks) {}
  int num_threads() const override { return callbacks_.num_threads(callbacks_.context); }
  void run(int64_t count, Task task, void* context) override {
    callbacks_.run(callbacks_.context, count, task, context);
  }

 private:
  tokensieve_executor callbacks_;
};

// Lives on the stack during one call: the C++ options that stand for the caller's.
class CallOptions {
 public:
  Status read(const tokensieve_run_options* in) {
    if (in == nullptr) return {};
    TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "options", c_));
    if (c_.executor != nullptr) TOKENSIEVE_RETURN_IF_ERROR(read_executor());
    if (c_.should_cancel != nullptr) {
      options_.should_cancel = [](void* self) {
        const tokensieve_run_options& c = static_cast<CallOptions*>(self)->c_;
        return c.should_cancel(c.cancel_context) != 0;
      };
      options_.cancel_context = this;
    }
    if (c_.all_gather != nullptr) {
      options_.all_gather = [](void* self, void* data, size_t bytes, void* stream) {
        const tokensieve_run_options& c = static_cast<CallOptions*>(self)->c_;
        return c.all_gather(c.gather_context, data, bytes, stream) == 0;
      };
      options_.gather_context = this;
    }
    if (c_.report != nullptr) options_.report = &report_;
    options_.stream = c_.stream;
    return {};
  }

  const RunOptions& options() const { return options_; }

  void write_report() const {
    if (c_.report != nullptr) write_struct(to_c(report_), c_.report);
  }

 private:
  Status read_executor() {
    tokensieve_executor callbacks;
    TOKENSIEVE_RETURN_IF_ERROR(read_struct(c_.executor, "executor", callbacks));
    if (callbacks.num_threads == nullptr) return null_argument("executor.num_threads");
    if (callbacks.run == nullptr) return null_argument("executor.run");
    executor_ = CExecutor(callbacks);
    options_.executor = &executor_;
    return {};
  }

  tokensieve_run_options c_ = {};
  CExecutor executor_{tokensieve_executor{}};
  RunOptions options_;
  RunReport report_;
};

// Runs `body(plan, options)` with the caller's options and hands the report back.
template <typename F>
int32_t call(const tokensieve_plan* plan, const tokensieve_run_options* options,
             tokensieve_status* status, F&& body) noexcept {
  return guarded(status, [&]() -> Status {
    if (plan == nullptr) return null_argument("plan");
    CallOptions call_options;
    TOKENSIEVE_RETURN_IF_ERROR(call_options.read(options));
    const Status result = body(plan->plan, call_options.options());
    if (result.ok()) call_options.write_report();
    return result;
  });
}

std::span<std::byte> bytes(void* data, size_t size) {
  return {static_cast<std::byte*>(data), data == nullptr ? 0 : size};
}

void init_tensor(tokensieve_tensor* tensor, const TensorView& view) {
  if (tensor == nullptr) return;
  *tensor = empty<tokensieve_tensor>();
  tensor->dtype = static_cast<int32_t>(view.dtype);
  tensor->data = view.data;
  std::copy_n(view.shape.begin(), 4, tensor->shape);
  std::copy_n(view.strides.begin(), 4, tensor->strides);
}

}  // namespace

extern "C" {

#define INIT(name, defaults)                                                   \
  size_t tokensieve_##name##_init_sized(tokensieve_##name* out, size_t size) { \
    return init(out, size, defaults);                                          \
  }
INIT(status, empty<tokensieve_status>())
INIT(executor, empty<tokensieve_executor>())
INIT(inputs, empty<tokensieve_inputs>())
INIT(outputs, empty<tokensieve_outputs>())
INIT(keep_set, empty<tokensieve_keep_set>())
INIT(plan_info, empty<tokensieve_plan_info>())
INIT(run_options, empty<tokensieve_run_options>())
INIT(report, to_c(RunReport{}))
INIT(shape, to_c(AttentionShape{}))
INIT(select, to_c(SelectConfig{}))
INIT(blocks, to_c(BlockConfig{}))
INIT(block_mask, empty<tokensieve_block_mask>())
INIT(options, to_c(PlanOptions{}))
#undef INIT

void tokensieve_tensor_init_bshd(tokensieve_tensor* tensor, const void* data, int32_t dtype,
                                 int64_t batch, int64_t seq, int64_t heads, int64_t dim) {
  init_tensor(tensor, bshd(data, static_cast<DType>(dtype), batch, seq, heads, dim));
}
void tokensieve_tensor_init_bhsd(tokensieve_tensor* tensor, const void* data, int32_t dtype,
                                 int64_t batch, int64_t seq, int64_t heads, int64_t dim) {
  init_tensor(tensor, bhsd(data, static_cast<DType>(dtype), batch, seq, heads, dim));
}

const char* tokensieve_version(void) { return TOKENSIEVE_VERSION_STRING; }
const char* tokensieve_code_name(int32_t code) {
  return status_code_name(static_cast<StatusCode>(code));
}
const char* tokensieve_backend_name(int32_t backend) {
  return backend_name(static_cast<Backend>(backend));
}
int32_t tokensieve_backend_available(int32_t backend) {
  return backend_available(static_cast<Backend>(backend)) ? 1 : 0;
}
int32_t tokensieve_backend_compiled(int32_t backend) {
  return backend_compiled(static_cast<Backend>(backend)) ? 1 : 0;
}
int32_t tokensieve_isa_supported(int32_t isa) {
  return isa_supported(static_cast<Isa>(isa)) ? 1 : 0;
}
const char* tokensieve_products_name(int32_t products) {
  return name_of(static_cast<Products>(products));
}
const char* tokensieve_products_reason_text(int32_t reason) {
  return products_reason_text(static_cast<ProductsReason>(reason));
}
const char* tokensieve_isa_name(int32_t isa) { return isa_name(static_cast<Isa>(isa)); }
const char* tokensieve_stage_name(int32_t stage) { return stage_name(static_cast<Stage>(stage)); }
const char* tokensieve_dense_reason_text(int32_t reason) {
  return dense_reason_text(static_cast<DenseReason>(reason));
}

int32_t tokensieve_isa_from_name(const char* name, int32_t* isa, tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (name == nullptr) return null_argument("name");
    if (isa == nullptr) return null_argument("isa");
    const Result<Isa> result = isa_from_name(name);
    if (result.ok()) *isa = static_cast<int32_t>(*result);
    return result.status();
  });
}

int32_t tokensieve_supported_isas(int32_t* isas, int32_t capacity) {
  int32_t count = 0;
  guarded(nullptr, [&]() -> Status {
    for (const Isa isa : supported_isas()) {
      if (isas != nullptr && count < capacity) isas[count] = static_cast<int32_t>(isa);
      ++count;
    }
    return {};
  });
  return count;
}

int32_t tokensieve_thread_pool_create(int32_t num_threads, tokensieve_thread_pool** pool,
                                      tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (pool == nullptr) return null_argument("pool");
    *pool = nullptr;
    if (num_threads < 0 || num_threads > 4096) {
      return Status::error(StatusCode::kInvalidArgument,
                           "num_threads is %d; allowed: 1..4096, or 0 for the hardware's "
                           "concurrency",
                           num_threads);
    }
    *pool = new tokensieve_thread_pool{make_thread_pool(num_threads)};
    return {};
  });
}

void tokensieve_thread_pool_free(tokensieve_thread_pool* pool) { delete pool; }

void tokensieve_thread_pool_executor(tokensieve_thread_pool* pool, tokensieve_executor* executor) {
  tokensieve_executor_init(executor);
  if (pool == nullptr || executor == nullptr) return;
  executor->context = pool->executor.get();
  executor->num_threads = [](void* self) -> int32_t {
    return static_cast<Executor*>(self)->num_threads();
  };
  executor->run = [](void* self, int64_t count, tokensieve_task task, void* context) {
    static_cast<Executor*>(self)->run(count, task, context);
  };
}

int32_t tokensieve_make_plan(const tokensieve_shape* shape, const tokensieve_select* select,
                             const tokensieve_options* options, tokensieve_plan** plan,
                             tokensieve_status* status) {
  return tokensieve_make_plan_with_blocks(shape, select, nullptr, options, plan, status);
}

int32_t tokensieve_make_plan_with_blocks(const tokensieve_shape* shape,
                                         const tokensieve_select* select,
                                         const tokensieve_blocks* blocks,
                                         const tokensieve_options* options, tokensieve_plan** plan,
                                         tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (plan == nullptr) return null_argument("plan");
    *plan = nullptr;
    AttentionShape cpp_shape;
    SelectConfig cpp_select;
    BlockConfig cpp_blocks;
    PlanOptions cpp_options;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(shape, cpp_shape));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(select, cpp_select));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(blocks, cpp_blocks));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(options, cpp_options));
    const Result<Plan> result = make_plan(cpp_shape, cpp_select, cpp_blocks, cpp_options);
    if (!result.ok()) return result.status();
    *plan = new tokensieve_plan{*result};
    return {};
  });
}

void tokensieve_plan_free(tokensieve_plan* plan) { delete plan; }

size_t tokensieve_workspace_bytes(const tokensieve_plan* plan) {
  return plan == nullptr ? 0 : workspace_bytes(plan->plan);
}

double tokensieve_work_of(const tokensieve_plan* plan, int64_t keep) {
  return plan == nullptr ? 0 : work_of(plan->plan, keep);
}

int64_t tokensieve_planned_keep(const tokensieve_plan* plan) {
  return plan == nullptr ? 0 : planned_keep(plan->plan);
}

int32_t tokensieve_plan_get_info(const tokensieve_plan* plan, tokensieve_plan_info* info,
                                 tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (plan == nullptr) return null_argument("plan");
    if (info == nullptr) return null_argument("info");
    write_struct(to_c(plan->plan), info);
    return {};
  });
}

int32_t tokensieve_run(const tokensieve_plan* plan, const tokensieve_inputs* inputs,
                       const tokensieve_outputs* outputs, void* workspace, size_t workspace_bytes,
                       const tokensieve_run_options* options, tokensieve_status* status) {
  return call(plan, options, status, [&](const Plan& p, const RunOptions& o) -> Status {
    AttentionInputs in;
    AttentionOutputs out;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(inputs, in));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(outputs, out));
    return run(p, in, out, bytes(workspace, workspace_bytes), o);
  });
}

int32_t tokensieve_read_report(const tokensieve_plan* plan, void* workspace,
                               size_t workspace_bytes, void* stream, tokensieve_report* report,
                               tokensieve_status* status) {
  return guarded(status, [&]() -> Status {
    if (plan == nullptr) return null_argument("plan");
    if (report == nullptr) return null_argument("report");
    RunReport result;
    TOKENSIEVE_RETURN_IF_ERROR(
        read_report(plan->plan, bytes(workspace, workspace_bytes), stream, &result));
    write_struct(to_c(result), report);
    return {};
  });
}

int32_t tokensieve_select_tokens(const tokensieve_plan* plan, const tokensieve_inputs* inputs,
                                 const tokensieve_keep_set* keep, void* workspace,
                                 size_t workspace_bytes,
                                 const tokensieve_run_options* options,
                                 tokensieve_status* status) {
  return call(plan, options, status, [&](const Plan& p, const RunOptions& o) -> Status {
    AttentionInputs in;
    KeepSet set;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(inputs, in));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(keep, set));
    return select_tokens(p, in, set, bytes(workspace, workspace_bytes), o);
  });
}

int32_t tokensieve_estimate_blocks(const tokensieve_plan* plan, const tokensieve_inputs* inputs,
                                   const tokensieve_block_mask* mask, void* workspace,
                                   size_t workspace_bytes, const tokensieve_run_options* options,
                                   tokensieve_status* status) {
  return call(plan, options, status, [&](const Plan& p, const RunOptions& o) -> Status {
    AttentionInputs in;
    BlockMask written;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(inputs, in));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(mask, "mask", written));
    return estimate_blocks(p, in, written, bytes(workspace, workspace_bytes), o);
  });
}

int32_t tokensieve_compact(const tokensieve_plan* plan, const tokensieve_tensor* x,
                           const tokensieve_keep_set* keep, const tokensieve_tensor* compacted,
                           const tokensieve_run_options* options, tokensieve_status* status) {
  return call(plan, options, status, [&](const Plan& p, const RunOptions& o) -> Status {
    TensorView full, rows;
    KeepSet set;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(x, "x", full));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(keep, set));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(compacted, "compacted", rows));
    return compact(p, full, set, rows, o);
  });
}

int32_t tokensieve_scatter(const tokensieve_plan* plan, const tokensieve_tensor* compacted,
                           const tokensieve_keep_set* keep, const tokensieve_tensor* out,
                           const tokensieve_run_options* options, tokensieve_status* status) {
  return call(plan, options, status, [&](const Plan& p, const RunOptions& o) -> Status {
    TensorView rows, full;
    KeepSet set;
    TOKENSIEVE_RETURN_IF_ERROR(from_c(compacted, "compacted", rows));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(keep, set));
    TOKENSIEVE_RETURN_IF_ERROR(from_c(out, "out", full));
    return scatter(p, rows, set, full, o);
  });
}

}  // extern "C"
