#include "common/llama_session.h"

#include <ggml-backend.h>

#include <algorithm>
#include <cmath>

#include "common/llama_log.h"
#include "common/paths.h"
#include "common/signals.h"
#include "common/system.h"

namespace tokensieve::cli {
namespace {

llama_rope_scaling_type to_llama(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return LLAMA_ROPE_SCALING_TYPE_NONE;
    case RopeScaling::kLinear:
      return LLAMA_ROPE_SCALING_TYPE_LINEAR;
    case RopeScaling::kYarn:
      return LLAMA_ROPE_SCALING_TYPE_YARN;
    case RopeScaling::kModel:
      break;
  }
  return LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED;
}

// The KV cache of plain attention in f16; 0 where layers differ or have none, so that it is not
// known from outside.
int64_t kv_cache_bytes(const LlamaModel& model, int64_t context) {
  const llama_model* m = model.get();
  const ModelFingerprint f = model.fingerprint();
  const bool latent = !model.metadata(f.architecture + ".attention.kv_lora_rank").empty();
  if (llama_model_n_swa(m) > 0 || llama_model_is_recurrent(m) || llama_model_is_hybrid(m) ||
      latent) {
    return 0;
  }
  return context * f.num_layers * f.num_kv_heads * f.head_dim * 2 * 2;
}

Status cancelled() { return Status::error(StatusCode::kCancelled, "cancelled"); }

}  // namespace

Status start_llama(bool verbose) {
  install_llama_log(verbose);
  if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
    ggml_backend_load_all_from_path(llama_bin_folder().c_str());
  }
  if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
    return Status::error(StatusCode::kNotFound,
                         "llama.cpp's CPU backend is not in %s; run `make setup`, or set "
                         "TOKENSIEVE_LLAMA_BIN to the bin folder of a llama.cpp build",
                         llama_bin_folder().c_str());
  }
  llama_backend_init();
  return {};
}

Result<LlamaModel> LlamaModel::load(const ResolvedModel& source) {
  clear_llama_errors();
  LlamaModel model;
  model.source_ = source;
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.progress_callback = [](float, void*) { return !interrupted(); };
  model.model_.reset(llama_model_load_from_file(source.gguf.c_str(), params));
  if (interrupted()) return cancelled();
  if (!model.model_) {
    return Status::error(StatusCode::kDataError,
                         "llama.cpp cannot load %s: %s; if the file is truncated or damaged, fetch "
                         "it again",
                         source.gguf.c_str(), llama_errors().c_str());
  }
  if (!llama_model_has_decoder(model.get()) || llama_model_has_encoder(model.get())) {
    return Status::error(StatusCode::kUnsupported, "%s is not a decoder-only language model",
                         source.gguf.c_str());
  }
  if (!source.options.lora.empty()) {
    model.lora_.reset(llama_adapter_lora_init(model.get(), source.options.lora.c_str()));
    if (!model.lora_) {
      return Status::error(StatusCode::kDataError,
                           "llama.cpp cannot use the adapter %s: %s; it must be a LoRA GGUF made "
                           "for this model",
                           source.options.lora.c_str(), llama_errors().c_str());
    }
  }
  return model;
}

std::string LlamaModel::metadata(const std::string& key) const {
  char value[256] = {};
  const int32_t size = llama_model_meta_val_str(get(), key.c_str(), value, sizeof(value));
  return size < 0 ? "" : std::string(value);
}

ModelFingerprint LlamaModel::fingerprint() const {
  ModelFingerprint f;
  f.architecture = metadata("general.architecture");
  f.num_layers = num_layers();
  f.num_q_heads = llama_model_n_head(get());
  f.num_kv_heads = llama_model_n_head_kv(get());
  const std::string key_length = metadata(f.architecture + ".attention.key_length");
  f.head_dim = key_length.empty() ? llama_model_n_embd(get()) / std::max(1, f.num_q_heads)
                                  : std::stoi(key_length);
  return f;
}

int32_t LlamaModel::max_context() const {
  const ModelOptions& o = source_.options;
  const int32_t trained = llama_model_n_ctx_train(get());
  if (o.rope_scaling == RopeScaling::kModel && o.rope_scale <= 1) return trained;
  // What the model reads without scaling; a scaled model's metadata says so.
  const std::string original =
      metadata(metadata("general.architecture") + ".rope.scaling.original_context_length");
  const int32_t unscaled =
      original.empty() ? trained : static_cast<int32_t>(std::min(std::stod(original), 1e9));
  if (o.rope_scaling == RopeScaling::kNone || o.rope_scale <= 1) return unscaled;
  const int32_t base = o.yarn_orig_ctx > 0 ? o.yarn_orig_ctx : unscaled;
  return std::max(unscaled, static_cast<int32_t>(std::min(base * o.rope_scale, 1e9)));
}

Tokens LlamaModel::tokenize(const std::string& text, bool special) const {
  const auto size = static_cast<int32_t>(text.size());
  Tokens tokens(text.size() + 8);
  for (;;) {
    const int32_t count = llama_tokenize(vocab(), text.data(), size, tokens.data(),
                                         static_cast<int32_t>(tokens.size()), false, special);
    if (count >= 0) {
      tokens.resize(static_cast<size_t>(count));
      return tokens;
    }
    tokens.resize(static_cast<size_t>(-static_cast<int64_t>(count)));
  }
}

std::string LlamaModel::piece(llama_token token) const {
  std::string text(64, '\0');
  int32_t size = llama_token_to_piece(vocab(), token, text.data(), 64, 0, false);
  if (size < 0) {
    text.resize(static_cast<size_t>(-size));
    size = llama_token_to_piece(vocab(), token, text.data(), -size, 0, false);
  }
  text.resize(static_cast<size_t>(std::max(size, 0)));
  return text;
}

Status check_ubatch(int32_t ubatch, int32_t context) {
  if (ubatch <= context) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "--ubatch %d is beyond the context; allowed: 1 to %d", ubatch, context);
}

Status check_memory(const LlamaModel& model, const ContextOptions& options) {
  const int64_t cache = kv_cache_bytes(model, options.context);
  const int64_t mask = int64_t{2} * options.context * std::min(options.ubatch, options.context);
  const int64_t free = available_memory_bytes();
  if (cache + mask <= free) return {};
  constexpr double kMiB = 1 << 20;
  return Status::error(StatusCode::kInvalidArgument,
                       "a context of %d tokens that is read in ubatches of %d needs more than %.0f "
                       "MiB (KV cache %.0f, mask %.0f), and %.0f MiB are free; use %s",
                       options.context, options.ubatch, static_cast<double>(cache + mask) / kMiB,
                       static_cast<double>(cache) / kMiB, static_cast<double>(mask) / kMiB,
                       static_cast<double>(free) / kMiB,
                       cache > free ? "fewer tokens" : "a smaller --ubatch or fewer tokens");
}

Result<LlamaContext> LlamaContext::create(const LlamaModel& model, const ContextOptions& options) {
  TOKENSIEVE_RETURN_IF_ERROR(check_memory(model, options));
  clear_llama_errors();
  LlamaContext context;
  context.model_ = &model;
  context.ubatch_ = std::min(options.ubatch, options.context);
  context.callbacks_ = std::make_unique<Callbacks>();
  const ModelOptions& source = model.source().options;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(options.context);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(context.ubatch_);
  params.n_outputs_max = static_cast<uint32_t>(options.outputs);
  params.n_threads = params.n_threads_batch =
      source.threads > 0 ? source.threads : default_threads();
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.rope_scaling_type = to_llama(source.rope_scaling);
  if (source.rope_scale > 0) params.rope_freq_scale = static_cast<float>(1 / source.rope_scale);
  params.yarn_orig_ctx = static_cast<uint32_t>(source.yarn_orig_ctx);
  params.cb_eval = on_eval;
  params.cb_eval_user_data = context.callbacks_.get();
  params.abort_callback = [](void* data) {
    return interrupted() || static_cast<const Callbacks*>(data)->stop;
  };
  params.abort_callback_data = context.callbacks_.get();
  context.context_.reset(llama_init_from_model(model.get(), params));
  if (!context.context_) {
    return Status::error(StatusCode::kInternal,
                         "llama.cpp cannot make a context of %d tokens (ubatch %d): %s; use a "
                         "smaller --ctx or --ubatch if memory is short",
                         options.context, context.ubatch_, llama_errors().c_str());
  }
  if (llama_adapter_lora* lora = model.lora()) {
    float scale = 1;
    llama_set_adapters_lora(context.context_.get(), &lora, 1, &scale);
  }
  return context;
}

bool LlamaContext::on_eval(ggml_tensor* node, bool ask, void* data) {
  NodeWatcher* watcher = static_cast<const Callbacks*>(data)->watcher;
  if (watcher == nullptr) return !ask;
  if (ask) return watcher->wants(*node);
  watcher->computed(*node);
  return true;
}

Status LlamaContext::decode(const llama_batch& batch) {
  callbacks_->stop = false;
  const int32_t code = llama_decode(context_.get(), batch);
  if (interrupted() || code == 2) return cancelled();
  if (code == 0) return {};
  return Status::error(StatusCode::kInternal, "llama.cpp failed to decode (code %d): %s", code,
                       llama_errors().c_str());
}

Status LlamaContext::warm_up() {
  const llama_token bos = llama_vocab_bos(model_->vocab());
  llama_token token = bos == LLAMA_TOKEN_NULL ? 0 : bos;
  TOKENSIEVE_RETURN_IF_ERROR(decode(llama_batch_get_one(&token, 1)));
  llama_memory_clear(llama_get_memory(context_.get()), true);
  llama_perf_context_reset(context_.get());
  return {};
}

void LlamaContext::clear() {
  // The cells' contents may stay: no mask shows a cell that is not in use.
  llama_memory_clear(llama_get_memory(context_.get()), /*data=*/false);
  position_ = 0;
}

void LlamaContext::rollback(int32_t position) {
  forget(position, -1);
  position_ = position;
}

void LlamaContext::forget(int32_t first, int32_t last) {
  llama_memory_seq_rm(llama_get_memory(context_.get()), 0, first, last);
}

std::span<const float> LlamaContext::logits(int32_t index) const {
  const float* row = llama_get_logits_ith(context_.get(), index);
  if (row == nullptr) return {};
  return {row, static_cast<size_t>(llama_vocab_n_tokens(model_->vocab()))};
}

Status LlamaContext::prefill(std::span<const llama_token> tokens, bool all_outputs,
                             const std::function<void(int32_t)>& on_ubatch) {
  llama_batch batch = llama_batch_init(ubatch_, 0, 1);
  const std::unique_ptr<llama_batch, void (*)(llama_batch*)> guard(
      &batch, [](llama_batch* b) { llama_batch_free(*b); });
  const auto total = static_cast<int32_t>(tokens.size());
  for (int32_t begin = 0, done = 1; begin < total; begin += ubatch_, ++done) {
    batch.n_tokens = std::min(ubatch_, total - begin);
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
      batch.token[i] = tokens[static_cast<size_t>(begin + i)];
      batch.pos[i] = position_++;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = all_outputs || begin + i + 1 == total;
    }
    TOKENSIEVE_RETURN_IF_ERROR(decode(batch));
    if (on_ubatch) on_ubatch(done);
  }
  return {};
}

Result<std::string> LlamaContext::generate(
    int32_t max_tokens, double temperature,
    const std::function<void(const std::string&)>& on_piece) {
  const std::unique_ptr<llama_sampler, void (*)(llama_sampler*)> sampler(
      llama_sampler_chain_init(llama_sampler_chain_default_params()), llama_sampler_free);
  if (temperature > 0) {
    llama_sampler_chain_add(sampler.get(),
                            llama_sampler_init_temp(static_cast<float>(temperature)));
    llama_sampler_chain_add(sampler.get(), llama_sampler_init_dist(LLAMA_DEFAULT_SEED));
  } else {
    llama_sampler_chain_add(sampler.get(), llama_sampler_init_greedy());
  }
  std::string answer;
  for (int32_t i = 0; i < max_tokens; ++i) {
    llama_token token = llama_sampler_sample(sampler.get(), context_.get(), -1);
    if (llama_vocab_is_eog(model_->vocab(), token)) break;
    const std::string text = model_->piece(token);
    answer += text;
    if (on_piece) on_piece(text);
    if (i + 1 == max_tokens) break;
    TOKENSIEVE_RETURN_IF_ERROR(decode(llama_batch_get_one(&token, 1)));
  }
  return answer;
}

}  // namespace tokensieve::cli
