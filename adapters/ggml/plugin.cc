// The ggml backend "TokenSieve": an ACCEL device that takes the FLASH_ATTN_EXT nodes of a prefill
// from the CPU backend and leaves everything else where it is. docs/llama.cpp.md says how the
// scheduler of llama.cpp comes to hand them over.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "compute.h"
#include "ggml-backend-impl.h"
#include "host_api.h"
#include "node.h"
#include "settings.h"
#include "stats.h"
#include "tokensieve/names.h"
#include "tokensieve/version.h"

namespace tokensieve::ggml {
namespace {

constexpr char kName[] = "TokenSieve";
constexpr char kDescription[] = "token sparse attention for long prompts";

// ---- backend: one per llama context -------------------------------------------------------------

Computer& computer_of(ggml_backend_t backend) { return *static_cast<Computer*>(backend->context); }

void free_backend(ggml_backend_t backend) {
  delete &computer_of(backend);
  delete backend;
}

bool is_view(ggml_op op) {
  return op == GGML_OP_NONE || op == GGML_OP_VIEW || op == GGML_OP_RESHAPE ||
         op == GGML_OP_PERMUTE || op == GGML_OP_TRANSPOSE;
}

ggml_status compute_node(Computer& computer, const ggml_tensor* op, const ggml_tensor* following,
                         const Settings& settings) {
  if (is_view(op->op) || (op->flags & GGML_TENSOR_FLAG_COMPUTE) == 0) return GGML_STATUS_SUCCESS;
  if (op->op != GGML_OP_FLASH_ATTN_EXT) {
    log_line(GGML_LOG_LEVEL_ERROR, "tokensieve: node %s has op %d, which was never claimed",
             op->name, static_cast<int>(op->op));
    return GGML_STATUS_FAILED;
  }
  if (computer.should_abort()) return GGML_STATUS_ABORTED;
  const Status status = computer.compute(read_node(op, following), settings);
  if (status.ok()) return GGML_STATUS_SUCCESS;
  if (status.code() == StatusCode::kCancelled) return GGML_STATUS_ABORTED;
  log_line(GGML_LOG_LEVEL_ERROR, "tokensieve: node %s failed: %s", op->name, status.message());
  return GGML_STATUS_FAILED;
}

ggml_status compute_graph(ggml_backend_t backend, ggml_cgraph* graph) try {
  const auto settings = current_settings();
  const int count = host().graph_n_nodes(graph);
  for (int i = 0; i < count; ++i) {
    const ggml_tensor* following = i + 1 < count ? host().graph_node(graph, i + 1) : nullptr;
    const ggml_status status =
        compute_node(computer_of(backend), host().graph_node(graph, i), following, *settings);
    if (status != GGML_STATUS_SUCCESS) return status;
  }
  return GGML_STATUS_SUCCESS;
} catch (const std::bad_alloc&) {
  log_line(GGML_LOG_LEVEL_ERROR, "tokensieve: out of memory; use a smaller -ub or -c");
  return GGML_STATUS_ALLOC_FAILED;
}

void set_n_threads(ggml_backend_t backend, int num_threads) {
  computer_of(backend).set_num_threads(num_threads);
}

void set_abort_callback(ggml_backend_t backend, ggml_abort_callback callback, void* data) {
  computer_of(backend).set_abort_callback(callback, data);
}

ggml_guid_t guid() {
  static ggml_guid id = {0x74, 0x6f, 0x6b, 0x65, 0x6e, 0x73, 0x69, 0x65,
                         0x76, 0x65, 0x91, 0x0b, 0x2c, 0x5d, 0x1e, 0x07};
  return &id;
}

// Between the two nothing can have run, so that there is nothing to tell at exit.
std::atomic<bool> device_offered{false};
std::atomic<bool> context_made{false};

// ---- device -------------------------------------------------------------------------------------

// With a GPU the scheduler would not hand over nodes, and a device without events would switch off
// pipeline parallelism: stay out of the way.
bool host_has_gpu() {
  for (size_t i = 0; i < host().dev_count(); ++i) {
    const enum ggml_backend_dev_type type = host().dev_type(host().dev_get(i));
    if (type != GGML_BACKEND_DEVICE_TYPE_CPU && type != GGML_BACKEND_DEVICE_TYPE_ACCEL) return true;
  }
  return false;
}

const char* device_name(ggml_backend_dev_t) { return kName; }
const char* device_description(ggml_backend_dev_t) { return kDescription; }
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) {
  return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

void device_memory(ggml_backend_dev_t, size_t* free, size_t* total) {
  *free = 0;
  *total = 0;
}

void device_props(ggml_backend_dev_t, ggml_backend_dev_props* props) {
  *props = {};
  props->name = kName;
  props->description = kDescription;
  props->type = GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

ggml_backend_t init_backend(ggml_backend_dev_t device, const char*) try {
  context_made = true;
  auto computer = std::make_unique<Computer>();
  auto backend = std::make_unique<ggml_backend>();  // zeroed: what is not set is not supported
  backend->guid = guid();
  backend->iface.get_name = [](ggml_backend_t) { return kName; };
  backend->iface.free = free_backend;
  backend->iface.graph_compute = compute_graph;
  backend->device = device;
  backend->context = computer.release();
  return backend.release();
} catch (const std::bad_alloc&) {
  return nullptr;
}

// The CPU's own buffer type, by pointer: that is the scheduler's test for handing a node over.
ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t) { return host().cpu_buffer_type(); }

bool supports_buft(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
  return host().buft_is_host(type);
}

bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) {
  if (is_view(op->op)) return true;
  if (op->op != GGML_OP_FLASH_ATTN_EXT) return false;
  const auto settings = current_settings();
  return settings->mode != TOKENSIEVE_GGML_OFF && can_compute(op, settings->min_queries) &&
         !host_has_gpu();
}

// ---- registry -----------------------------------------------------------------------------------

int configure(const tokensieve_ggml_config* config, char* error, uint32_t error_size) {
  const Status status = apply_config(config);
  if (error != nullptr && error_size > 0) {
    std::snprintf(error, error_size, "%s", status.message());
  }
  return status.ok() ? 0 : -1;
}

struct Function {
  const char* name;
  void* address;
};

void* proc_address(ggml_backend_reg_t, const char* name) {
  static const Function kFunctions[] = {
      {"ggml_backend_set_n_threads", reinterpret_cast<void*>(set_n_threads)},
      {"ggml_backend_set_abort_callback", reinterpret_cast<void*>(set_abort_callback)},
      {"tokensieve_ggml_configure", reinterpret_cast<void*>(configure)},
      {"tokensieve_ggml_stats", reinterpret_cast<void*>(copy_stats)},
      {"tokensieve_ggml_reset_stats", reinterpret_cast<void*>(reset_stats)}};
  for (const Function& function : kFunctions) {
    if (std::strcmp(name, function.name) == 0) return function.address;
  }
  return nullptr;
}

size_t device_count(ggml_backend_reg_t) {
  return current_settings()->disabled || host_has_gpu() ? 0 : 1;
}

ggml_backend_dev_t get_device(ggml_backend_reg_t reg, size_t) {
  static ggml_backend_device device = {};
  device.iface.get_name = device_name;
  device.iface.get_description = device_description;
  device.iface.get_memory = device_memory;
  device.iface.get_type = device_type;
  device.iface.get_props = device_props;
  device.iface.init_backend = init_backend;
  device.iface.get_buffer_type = buffer_type;
  device.iface.supports_op = supports_op;
  device.iface.supports_buft = supports_buft;
  device.reg = reg;
  device_offered = true;
  return &device;
}

// "0.25.3" and "0.25.4" agree: ggml changes its backend interface only with the minor version.
bool same_minor_version(const std::string& a, const std::string& b) {
  const auto minor = [](const std::string& v) { return v.substr(0, v.find('.', v.find('.') + 1)); };
  return minor(a) == minor(b);
}

// Whether this process can use the plug-in at all; says so in one line.
bool check_host(const void* caller) {
  if (const char* missing = resolve_host_api(caller)) {
    log_line(GGML_LOG_LEVEL_ERROR,
             "tokensieve: not loaded: the host has no function %s; it needs a ggml %s built as a "
             "shared library",
             missing, TOKENSIEVE_GGML_VERSION);
    return false;
  }
  if (!same_minor_version(host().version(), TOKENSIEVE_GGML_VERSION)) {
    log_line(GGML_LOG_LEVEL_ERROR,
             "tokensieve: not loaded: it was built for ggml %s, the host has %s; rebuild it with "
             "-DTOKENSIEVE_LLAMA_DIR=<the host's llama.cpp source>",
             TOKENSIEVE_GGML_VERSION, host().version());
    return false;
  }
  return true;
}

bool load_settings() {
  Settings settings;
  const Status status = settings_from_environment(settings);
  if (!status.ok()) {
    log_line(GGML_LOG_LEVEL_ERROR, "tokensieve: runs dense: %s", status.message());
  }
  // The smallest plan tells which instruction set and products the backend chooses, or why it
  // cannot run.
  const Result<Plan> plan = make_plan(
      {.seqlen_q = 1,
       .seqlen_kv = 1,
       .num_q_heads = 1,
       .num_kv_heads = 1,
       .head_dim = 16,
       .kv_dtype = DType::kF16},
      {.enabled = false},
      {.backend = settings.backend, .products = products_of(settings)});
  if (!plan.ok()) {
    log_line(GGML_LOG_LEVEL_ERROR, "tokensieve: not loaded: %s", plan.status().message());
    return false;
  }
  log_line(GGML_LOG_LEVEL_INFO,
           "tokensieve %s: %s, isa %s, %s products, mode %s, profile %s, threads as the host says, "
           "ggml %s",
           TOKENSIEVE_VERSION_STRING,
           settings.disabled ? "disabled" : backend_name(settings.backend),
           isa_name(plan->options.isa), name_of(plan->options.products), mode_name(settings.mode),
           settings.profile_name.c_str(), host().version());
  if (plan->products_reason != ProductsReason::kNone) {
    log_line(GGML_LOG_LEVEL_WARN, "tokensieve: %s products were asked for and run exact: %s",
             name_of(products_of(settings)), products_reason_text(plan->products_reason));
  }
  if (!settings.old_mode.empty()) log_old_mode(settings.old_mode.c_str());
  set_current_settings(std::move(settings));
  return true;
}

ggml_backend_reg_t registry(const void* caller) try {
  static ggml_backend_reg reg = {};
  if (reg.api_version != 0) return &reg;  // loaded a second time
  if (!check_host(caller) || !load_settings()) return nullptr;
  reg.iface.get_name = [](ggml_backend_reg_t) { return kName; };
  reg.iface.get_device_count = device_count;
  reg.iface.get_device = get_device;
  reg.iface.get_proc_address = proc_address;
  reg.api_version = GGML_BACKEND_API_VERSION;
  return &reg;
} catch (const std::bad_alloc&) {
  return nullptr;
}

// At exit or unload. Straight to stderr: the host's log may be gone.
[[gnu::destructor]] void print_stats_at_exit() {
  if (device_offered && !context_made) return;
  if (current_settings()->print_stats) print_stats(stderr);
}

}  // namespace
}  // namespace tokensieve::ggml

// The loader looks this name up; its own address tells which ggml loads us.
extern "C" [[gnu::visibility("default")]] ggml_backend_reg_t ggml_backend_init(void) {
  return tokensieve::ggml::registry(__builtin_return_address(0));
}
