#include "yardstick_ggml.h"

#include <chrono>
#include <cmath>
#include <cstring>

#ifdef TOKENSIEVE_HAVE_LLAMA
#include "ggml-backend.h"
#include "ggml.h"
#endif

namespace tokensieve::bench {

#ifdef TOKENSIEVE_HAVE_LLAMA
namespace {

constexpr uint16_t kMinusInfF16 = 0xfc00;

struct ContextDeleter {
  void operator()(ggml_context* context) const { ggml_free(context); }
};
struct BufferDeleter {
  void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};

class CpuFlashAttention final : public GgmlFlashAttention {
 public:
  explicit CpuFlashAttention(ggml_backend_t backend) : backend_(backend) {}
  ~CpuFlashAttention() override { ggml_backend_free(backend_); }

  Result<double> run(const AttentionShape& s, const float* q, const uint16_t* k,
                     const uint16_t* v, float* out) override {
    const std::unique_ptr<ggml_context, ContextDeleter> context(
        ggml_init({ggml_tensor_overhead() * 16 + ggml_graph_overhead(), nullptr, true}));
    ggml_context* c = context.get();
    const int64_t n = s.seqlen_kv;
    // As in llama.cpp: [dim, heads, tokens] in memory, permuted to [dim, tokens, heads].
    ggml_tensor* tq = ggml_new_tensor_3d(c, GGML_TYPE_F32, s.head_dim, s.num_q_heads, n);
    ggml_tensor* tk = ggml_new_tensor_3d(c, GGML_TYPE_F16, s.head_dim, s.num_kv_heads, n);
    ggml_tensor* tv = ggml_new_tensor_3d(c, GGML_TYPE_F16, s.head_dim, s.num_kv_heads, n);
    ggml_tensor* mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, n, n);
    ggml_tensor* result = ggml_flash_attn_ext(
        c, ggml_permute(c, tq, 0, 2, 1, 3), ggml_permute(c, tk, 0, 2, 1, 3),
        ggml_permute(c, tv, 0, 2, 1, 3), mask, 1.0f / std::sqrt(float(s.head_dim)), 0.0f, 0.0f);
    ggml_prec_set_acc(result, GGML_PREC_F32);
    ggml_cgraph* graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, result);
    const std::unique_ptr<ggml_backend_buffer, BufferDeleter> buffer(
        ggml_backend_alloc_ctx_tensors(c, backend_));
    if (buffer == nullptr) {
      return Status::error(StatusCode::kInternal, "ggml could not allocate %lld tokens",
                           static_cast<long long>(n));
    }
    ggml_backend_tensor_set(tq, q, 0, ggml_nbytes(tq));
    ggml_backend_tensor_set(tk, k, 0, ggml_nbytes(tk));
    ggml_backend_tensor_set(tv, v, 0, ggml_nbytes(tv));
    std::vector<uint16_t> row(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) row[static_cast<size_t>(j)] = j <= i ? 0 : kMinusInfF16;
      ggml_backend_tensor_set(mask, row.data(), static_cast<size_t>(i * n) * 2, row.size() * 2);
    }
    const auto start = std::chrono::steady_clock::now();
    if (ggml_backend_graph_compute(backend_, graph) != GGML_STATUS_SUCCESS) {
      return Status::error(StatusCode::kInternal, "ggml's flash attention failed");
    }
    const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
    ggml_backend_tensor_get(result, out, 0, ggml_nbytes(result));
    return ms.count();
  }

 private:
  ggml_backend_t backend_;
};

}  // namespace

std::unique_ptr<GgmlFlashAttention> make_ggml_flash_attention(const std::string& llama_bin,
                                                              int num_threads) {
  if (llama_bin.empty()) return nullptr;
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
    ggml_backend_load_all_from_path(llama_bin.c_str());
  }
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (device == nullptr) return nullptr;
  ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);
  if (backend == nullptr) return nullptr;
  using SetThreads = void (*)(ggml_backend_t, int);
  const auto set_threads = reinterpret_cast<SetThreads>(ggml_backend_reg_get_proc_address(
      ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
  if (set_threads != nullptr) set_threads(backend, num_threads);
  return std::make_unique<CpuFlashAttention>(backend);
}

#else

std::unique_ptr<GgmlFlashAttention> make_ggml_flash_attention(const std::string&, int) {
  return nullptr;
}

#endif

}  // namespace tokensieve::bench
