// Runs one case with one configuration: prefill, answer, further questions, or the distribution
// over a continuation.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/llama_session.h"
#include "common/plugin.h"
#include "eval/case.h"
#include "eval/config.h"
#include "eval/equal_work.h"
#include "eval/metrics.h"
#include "eval/selectors.h"

namespace tokensieve::eval {

using cli::ContextOptions;
using cli::LayerStats;
using cli::LlamaContext;
using cli::LlamaModel;
using cli::Plugin;
using cli::Tokens;

// A case in the model's tokens.
struct PreparedCase {
  Case source;
  Tokens prompt;
  std::vector<Tokens> turns;  // one per follow-up: reply to the question, then the next question
  Tokens continuation;        // task "text"

  bool is_text() const { return !continuation.empty(); }
};

struct CaseRun {
  CaseResult result;        // all but the metrics
  Predictions predictions;  // task "text"
  KeptByLayer kept;         // if asked for
};

class Runner {
 public:
  struct Options {
    bool keep_sets = false;                    // fill CaseRun::kept
    std::function<void(double)> on_progress;   // share of the prefill that is done
  };

  // Tokens that a context holds beside the prompt: answer, next turn, continuation.
  static constexpr int32_t kReserve = 512;

  // Every prompt has at most `max_tokens`, and is read as one of `configs` does. Contexts are made
  // when they are first needed and used again: their memory is cleared between runs.
  Runner(const LlamaModel& model, Plugin& plugin, int32_t max_tokens,
         std::span<const Config> configs);

  // Error: a chunk is longer than the model's context, or memory is too short for the contexts.
  Status check() const;

  Result<CaseRun> run(const PreparedCase& input, const Config& config, const Options& options);

  // Time spent inside llama.cpp since the start.
  double model_ms() const { return model_ms_; }

 private:
  enum class Owner { kStock, kOurs };  // whose attention a context was made for
  struct Job;                          // one case on its way
  struct Pass {                        // of those that read a case's prompt
    size_t index;
    size_t count;
  };

  static Owner owner_of(const Config& config);
  ContextOptions options_of(Owner owner) const;
  Result<LlamaContext*> context(Owner owner);
  // Reads `tokens` after what the context holds, timed.
  Status read(Job& job, std::span<const llama_token> tokens, Pass pass = {0, 1});
  Status start(Job& job);
  // From now on without selection, with the configuration's products.
  Status run_densely(const Job& job);
  // The ways to read a prompt: runner_prefill.cc.
  Status prefill(Job& job);
  Status prefill_densely(Job& job);
  Status prefill_with_selection(Job& job);
  Status prefill_with_window(Job& job);
  Status prefill_evicted(Job& job);
  Status prefill_again(Job& job, const Tokens& rest, std::vector<LayerStats> first_pass);
  Status record(Job& job, KeptByLayer& sets);
  Status answer(Job& job);
  Status ask_again(Job& job);
  Status predict(Job& job);
  Result<std::string> generate(Job& job);

  const LlamaModel& model_;
  Plugin& plugin_;
  int32_t max_tokens_;
  double model_ms_ = 0;
  std::map<Owner, int32_t> ubatches_;  // the longest that a configuration needs
  std::map<Owner, LlamaContext> contexts_;
};

struct Runner::Job {
  const PreparedCase& input;
  const Config& config;
  const Options& options;
  LlamaContext* context = nullptr;
  int32_t ubatch = 0;
  int32_t position = 0;  // tokens in the context after the prefill
  CaseRun out;

  std::span<const llama_token> prompt() const { return input.prompt; }
  bool is_stock() const { return config.method->prefill == Prefill::kStock; }
};

}  // namespace tokensieve::eval
