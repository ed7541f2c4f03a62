#include "eval/cases.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/prompt.h"

namespace tokensieve::eval {
namespace {

constexpr size_t kContinuationTokens = 64;

void append(Tokens& tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

// The bare text, as a language model reads it.
Tokens text_tokens(const LlamaModel& model, const std::string& text) {
  Tokens tokens = model.tokenize(text, false);
  const llama_token bos = llama_vocab_bos(model.vocab());
  if (llama_vocab_get_add_bos(model.vocab()) && bos != LLAMA_TOKEN_NULL) {
    tokens.insert(tokens.begin(), bos);
  }
  return tokens;
}

Result<Tokens> prompt_tokens(const LlamaModel& model, const std::string& system,
                             const std::string& document, const Question& question) {
  if (question.text.empty()) return text_tokens(model, document);
  Result<cli::Prompt> prompt = cli::build_prompt(model, {{"", document}}, question.text, system);
  if (!prompt.ok()) return prompt.status();
  Tokens tokens = std::move(prompt.value().tokens);
  append(tokens, model.tokenize(question.answer_prefix, false));
  return tokens;
}

std::string reply_to(const Question& question) {
  return fmt::format(" {}.", fmt::join(question.expected, ", "));
}

Tokens turn_tokens(const LlamaModel& model, const std::string& system, const Question& answered,
                   const Question& next) {
  Tokens tokens = cli::build_next_turn(model, reply_to(answered), next.text, system);
  append(tokens, model.tokenize(next.answer_prefix, false));
  return tokens;
}

}  // namespace

std::vector<CaseId> case_ids(const std::vector<std::string>& tasks,
                             const std::vector<int32_t>& lengths, int32_t cases) {
  std::vector<CaseId> ids;
  for (int32_t index = 0; index < cases; ++index) {
    for (const int32_t length : lengths) {
      for (const std::string& task : tasks) ids.push_back({task, length, index});
    }
  }
  return ids;
}

Tokens right_answer(const LlamaModel& model, const Question& question) {
  return model.tokenize(reply_to(question), false);
}

Result<PreparedCase> prepare_case(const LlamaModel& model, const std::string& system,
                                  const CaseId& id, uint64_t seed) {
  const CountTokens count = [&](std::string_view document, const Question& question) {
    const Result<Tokens> tokens =
        prompt_tokens(model, system, std::string(document), question);
    return tokens.ok() ? static_cast<int32_t>(tokens->size()) : 0;
  };
  Result<Case> made = make_case(id.task, id.length, id.index, seed, count);
  if (!made.ok()) return made.status();
  PreparedCase prepared{.source = std::move(made.value())};
  const Case& source = prepared.source;
  Result<Tokens> prompt = prompt_tokens(model, system, source.document, source.question);
  if (!prompt.ok()) return prompt.status();
  prepared.prompt = std::move(prompt.value());
  if (!source.continuation.empty()) {
    prepared.continuation = model.tokenize(source.continuation, false);
    if (prepared.continuation.size() > kContinuationTokens) {
      prepared.continuation.resize(kContinuationTokens);
    }
  }
  for (const Question& question : source.follow_ups) {
    prepared.turns.push_back(turn_tokens(model, system, source.question, question));
  }
  return prepared;
}

}  // namespace tokensieve::eval
