// libllama behind RAII: one model, then a fresh context for every run.
#pragma once

#include <llama.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/models.h"
#include "tokensieve/profile.h"
#include "tokensieve/status.h"

namespace tokensieve::cli {

using Tokens = std::vector<llama_token>;

// Loads the ggml backends once. Error: no CPU backend.
Status start_llama(bool verbose);

// Looks at graph nodes while llama.cpp computes them (its cb_eval). Every wanted node costs a
// synchronisation, so want few.
class NodeWatcher {
 public:
  virtual ~NodeWatcher() = default;
  virtual bool wants(const ggml_tensor& node) = 0;
  virtual void computed(ggml_tensor& node) = 0;
};

class LlamaModel {
 public:
  static Result<LlamaModel> load(const ResolvedModel& source);

  llama_model* get() const { return model_.get(); }
  llama_adapter_lora* lora() const { return lora_.get(); }
  const ResolvedModel& source() const { return source_; }
  ModelFingerprint fingerprint() const;
  int32_t num_layers() const { return llama_model_n_layer(model_.get()); }
  // Most tokens that the model was trained for, RoPE scaling included.
  int32_t max_context() const;
  const llama_vocab* vocab() const { return llama_model_get_vocab(model_.get()); }

  // special: text such as <|im_end|> becomes its token.
  Tokens tokenize(const std::string& text, bool special) const;
  std::string piece(llama_token token) const;
  std::string metadata(const std::string& key) const;  // empty: none

 private:
  struct FreeModel {
    void operator()(llama_model* model) const { llama_model_free(model); }
  };
  struct FreeLora {
    void operator()(llama_adapter_lora* lora) const { llama_adapter_lora_free(lora); }
  };

  LlamaModel() = default;

  ResolvedModel source_;
  std::unique_ptr<llama_model, FreeModel> model_;
  std::unique_ptr<llama_adapter_lora, FreeLora> lora_;  // freed before its model
};

struct ContextOptions {
  int32_t context = 0;   // tokens
  int32_t ubatch = 512;  // tokens per graph
  int32_t outputs = 1;   // most rows of logits in one decode
};

// Error: --ubatch is longer than the `context`, of which the model or the user says how long it is.
Status check_ubatch(int32_t ubatch, int32_t context);

// Error: this machine has less free memory than the context surely needs, which is its attention
// mask and, where all layers have the same, its KV cache.
Status check_memory(const LlamaModel& model, const ContextOptions& options);

class LlamaContext {
 public:
  static Result<LlamaContext> create(const LlamaModel& model, const ContextOptions& options);

  // One token through every layer, then forget it: weights are paged in and threads started, so
  // that the first run of a comparison pays nothing that the others do not.
  Status warm_up();
  // From now on prefill() decodes so many tokens at a time: at most those of ContextOptions.
  void set_ubatch(int32_t ubatch) { ubatch_ = ubatch; }
  void watch(NodeWatcher* watcher) { callbacks_->watcher = watcher; }

  // Decodes `tokens` ubatch by ubatch after what the memory holds; on_ubatch(number done) after
  // each. all_outputs: logits of every token, else of the last one. Error: kCancelled after Ctrl-C
  // or stop().
  Status prefill(std::span<const llama_token> tokens, bool all_outputs,
                 const std::function<void(int32_t)>& on_ubatch);

  // Forgets everything, or the tokens from `position` on, or those in [first, last).
  void clear();
  void rollback(int32_t position);
  void forget(int32_t first, int32_t last);

  // Logits of output `index` of the last decode; -1: the last one.
  std::span<const float> logits(int32_t index) const;

  // Ends the decode that is running, before its next node; from a callback. For one decode.
  void stop() { callbacks_->stop = true; }

  // Samples until the end of the turn or max_tokens; on_piece streams text. temperature 0: greedy.
  Result<std::string> generate(int32_t max_tokens, double temperature,
                               const std::function<void(const std::string&)>& on_piece);

 private:
  struct FreeContext {
    void operator()(llama_context* context) const { llama_free(context); }
  };

  // What libllama's callbacks look at, through its address.
  struct Callbacks {
    NodeWatcher* watcher = nullptr;
    bool stop = false;
  };

  LlamaContext() = default;
  static bool on_eval(ggml_tensor* node, bool ask, void* data);
  Status decode(const llama_batch& batch);

  const LlamaModel* model_ = nullptr;
  int32_t ubatch_ = 0;
  int32_t position_ = 0;
  std::unique_ptr<Callbacks> callbacks_;
  std::unique_ptr<llama_context, FreeContext> context_;
};

}  // namespace tokensieve::cli
