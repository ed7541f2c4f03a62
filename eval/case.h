// Evaluation cases: a document, a question with a known answer, and other questions about the same
// document. Tasks follow RULER (arXiv 2404.06654); docs/evaluation.md describes each.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::eval {

struct Question {
  std::string text;
  // The answer's first words, put behind the prompt as RULER does ("The phone number of Ravi Menon
  // is"); the model goes on from there. Small models otherwise chat instead of answering. May be
  // empty.
  std::string answer_prefix;
  std::vector<std::string> expected;  // every string that a full answer names
};

struct Case {
  std::string task;    // one of task_names()
  int32_t length = 0;  // wanted prompt tokens; the prompt has at most this many, at least 95 %
  int32_t index = 0;   // which case of this task and length
  uint64_t seed = 0;   // of the run
  std::string filler;  // kind of text around the facts: "fiction", ...
  double depth = -1;   // place of the (first) asked fact in the document, 0 to 1; -1: spread out
  std::string document;
  Question question;
  std::vector<Question> follow_ups;  // about facts that the question never mentions
  std::string continuation;          // task "text" only: the real text after the document
};

// Tokens of the whole prompt: chat template, document, question and answer prefix. For task "text"
// the question is empty and the count is of the bare document.
using CountTokens = std::function<int32_t(std::string_view document, const Question& question)>;

// Every task, in the order of the docs.
std::vector<std::string_view> task_names();

// A function of its arguments alone: the same on every machine (given the same tokenizer).
// Errors: an unknown task; a length that this task's facts do not fit into, or that exceeds the
// shipped text; missing text files.
Result<Case> make_case(const std::string& task, int32_t length, int32_t index, uint64_t seed,
                       const CountTokens& count);

// RULER's string match recall: the share of question.expected that the answer contains. Upper and
// lower case are the same; an expected number must not be part of a longer one. 1 if none expected.
double score(const Question& question, std::string_view answer);

// Most tokens that an answer of this task needs; task "text" generates none. `task` must be known.
int32_t answer_tokens(const std::string& task);

}  // namespace tokensieve::eval
