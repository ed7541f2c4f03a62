// Documents and a question become the tokens of one user turn.
#pragma once

#include <string>
#include <vector>

#include "common/llama_session.h"

namespace tokensieve::cli {

struct Document {
  std::string name;
  std::string text;
};

struct Prompt {
  Tokens tokens;
  bool uses_template = false;  // false: the model has no chat template that llama.cpp knows
};

// The model's chat template around the documents and, after them, the question. Text such as
// <|im_end|> inside a document stays text. Error: the template does not apply.
Result<Prompt> build_prompt(const LlamaModel& model, const std::vector<Document>& documents,
                            const std::string& question, const std::string& system);

// Tokens that continue a prompt of build_prompt: the assistant's `reply`, then the user's next
// `question`, up to where the next reply begins.
Tokens build_next_turn(const LlamaModel& model, const std::string& reply,
                       const std::string& question, const std::string& system);

}  // namespace tokensieve::cli
