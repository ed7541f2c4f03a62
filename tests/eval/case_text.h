// Cases as text: equal texts are equal cases.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/case.h"

namespace tokensieve::eval {

inline nlohmann::ordered_json question_json(const Question& question) {
  nlohmann::ordered_json json = {{"text", question.text}, {"expected", question.expected}};
  if (!question.answer_prefix.empty()) json["answer_prefix"] = question.answer_prefix;
  return json;
}

inline std::string case_text(const Case& item) {
  nlohmann::ordered_json json = {{"task", item.task},
                                 {"length", item.length},
                                 {"index", item.index},
                                 {"seed", item.seed},
                                 {"filler", item.filler}};
  if (item.depth >= 0) json["depth"] = item.depth;
  json["document"] = item.document;
  if (!item.question.text.empty()) json["question"] = question_json(item.question);
  for (const Question& q : item.follow_ups) json["follow_ups"].push_back(question_json(q));
  if (!item.continuation.empty()) json["continuation"] = item.continuation;
  return json.dump();
}

}  // namespace tokensieve::eval
