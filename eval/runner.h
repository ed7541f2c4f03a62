// Runs one case with one configuration: prefill, answer, further questions, or the distribution
// over a continuation.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "eval/case.h"
#include "eval/config.h"
#include "eval/metrics.h"
#include "eval/selectors.h"
#include "common/llama_session.h"
#include "common/plugin.h"

namespace tokensieve::cli::eval {

// A case in the model's tokens.
struct PreparedCase {
  Case source;
  Tokens prompt;
  std::vector<Tokens> turns;  // one per follow-up: reply to the question, then the next question
  Tokens continuation;        // task "text"

  bool is_text() const { return !continuation.empty(); }
};

struct CaseRun {
  double prefill_ms = 0;
  double attention_ms = 0;
  double generate_ms = 0;
  double keep_ratio = 1;           // mean over sparse layers
  double work = 1;                 // mean over all layers of the model
  std::vector<LayerStats> layers;  // empty: stock
  std::string answer;
  std::vector<std::string> follow_ups;  // answers
  Predictions predictions;              // task "text"
  KeptByLayer kept;                     // if asked for
};

class Runner {
 public:
  struct Options {
    bool keep_sets = false;                    // fill CaseRun::kept
    std::function<void(double)> on_progress;   // share of the prefill that is done
  };

  // Tokens that a context holds beside the prompt: answer, next turn, continuation.
  static constexpr int32_t kReserve = 512;

  // Every prompt has at most `max_tokens`. Contexts are made when they are first needed and used
  // again: their memory is cleared between runs.
  Runner(const LlamaModel& model, Plugin& plugin, int32_t max_tokens)
      : model_(model), plugin_(plugin), max_tokens_(max_tokens) {}

  Result<CaseRun> run(const PreparedCase& input, const Config& config, const Options& options);

  // Time spent inside llama.cpp since the start.
  double model_ms() const { return model_ms_; }

 private:
  enum class Feed { kStock, kChunks, kWhole };  // how a context takes prompts
  struct Job;                                   // one case on its way

  Result<LlamaContext*> context(Feed feed);
  Status prefill(Job& job);
  Status prefill_with_selection(Job& job);
  Status prefill_without_selection(Job& job);
  Status prefill_evicted(Job& job);
  Status record_draft(Job& job, KeptByLayer& sets);
  // Reads `tokens` after what the context holds, timed.
  Status read(Job& job, std::span<const llama_token> tokens);
  Status answer(Job& job);
  Status ask_again(Job& job);
  Status predict(Job& job);
  Result<std::string> generate(Job& job);

  const LlamaModel& model_;
  Plugin& plugin_;
  int32_t max_tokens_;
  double model_ms_ = 0;
  std::map<Feed, LlamaContext> contexts_;
};

}  // namespace tokensieve::cli::eval
