#include "common/prompt.h"

namespace tokensieve::cli {
namespace {

// Stand for texts while the template is applied, so that only the template's own pieces are read
// for special tokens.
constexpr char kPlaceholder[] = "@@tokensieve-user-text@@";
constexpr char kReply[] = "@@tokensieve-reply@@";
constexpr char kNextQuestion[] = "@@tokensieve-next-question@@";

using Messages = std::vector<llama_chat_message>;

// Empty when llama.cpp does not know the model's template.
std::string apply_template(const LlamaModel& model, const std::string& system,
                           const Messages& turns) {
  const char* chat_template = llama_model_chat_template(model.get(), nullptr);
  if (chat_template == nullptr) return "";
  Messages messages;
  if (!system.empty()) messages.push_back({"system", system.c_str()});
  messages.insert(messages.end(), turns.begin(), turns.end());
  std::string text(1024 + 2 * system.size(), '\0');
  for (int attempt = 0; attempt < 2; ++attempt) {
    const int32_t size =
        llama_chat_apply_template(chat_template, messages.data(), messages.size(), true,
                                  text.data(), static_cast<int32_t>(text.size()));
    if (size < 0) return "";
    const bool fits = static_cast<size_t>(size) <= text.size();
    text.resize(static_cast<size_t>(size));
    if (fits) return text;
  }
  return "";
}

std::string join_documents(const std::vector<Document>& documents) {
  if (documents.size() == 1) return documents[0].text;
  std::string text;
  for (const Document& document : documents) {
    text += "File: " + document.name + "\n\n" + document.text + "\n\n";
  }
  return text;
}

void append(Tokens& tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

}  // namespace

Result<Prompt> build_prompt(const LlamaModel& model, const std::vector<Document>& documents,
                            const std::string& question, const std::string& system) {
  const std::string text = apply_template(model, system, {{"user", kPlaceholder}});
  const size_t at = text.find(kPlaceholder);
  Prompt prompt;
  prompt.uses_template = at != std::string::npos;
  std::string before, after = "\n\nQuestion: " + question + "\nAnswer:";
  std::string after_special;
  if (prompt.uses_template) {
    before = text.substr(0, at);
    after = "\n\n" + question;
    after_special = text.substr(at + sizeof(kPlaceholder) - 1);
  } else if (!system.empty()) {
    before = system + "\n\n";
  }
  append(prompt.tokens, model.tokenize(before, true));
  append(prompt.tokens, model.tokenize(join_documents(documents), false));
  append(prompt.tokens, model.tokenize(after, false));
  append(prompt.tokens, model.tokenize(after_special, true));
  const llama_token bos = llama_vocab_bos(model.vocab());
  const bool has_bos = !prompt.tokens.empty() && prompt.tokens.front() == bos;
  if (llama_vocab_get_add_bos(model.vocab()) && bos != LLAMA_TOKEN_NULL && !has_bos) {
    prompt.tokens.insert(prompt.tokens.begin(), bos);
  }
  return prompt;
}

Tokens build_next_turn(const LlamaModel& model, const std::string& reply,
                       const std::string& question, const std::string& system) {
  const std::string text = apply_template(
      model, system,
      {{"user", kPlaceholder}, {"assistant", kReply}, {"user", kNextQuestion}});
  const size_t reply_at = text.find(kReply);
  const size_t question_at = text.find(kNextQuestion);
  Tokens tokens = model.tokenize(reply, false);
  if (reply_at == std::string::npos || question_at == std::string::npos) {
    append(tokens, model.tokenize("\n\nQuestion: " + question + "\nAnswer:", false));
    return tokens;
  }
  const size_t reply_end = reply_at + sizeof(kReply) - 1;
  append(tokens, model.tokenize(text.substr(reply_end, question_at - reply_end), true));
  append(tokens, model.tokenize(question, false));
  append(tokens, model.tokenize(text.substr(question_at + sizeof(kNextQuestion) - 1), true));
  return tokens;
}

}  // namespace tokensieve::cli
