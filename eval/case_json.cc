#include "eval/case_json.h"

#include <nlohmann/json.hpp>

namespace tokensieve::cli::eval {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const Question& question) {
  Json json = {{"text", question.text}, {"expected", question.expected}};
  if (!question.answer_prefix.empty()) json["answer_prefix"] = question.answer_prefix;
  return json;
}

Question to_question(const Json& json) {
  Question question;
  json.at("text").get_to(question.text);
  json.at("expected").get_to(question.expected);
  question.answer_prefix = json.value("answer_prefix", "");
  return question;
}

Case to_case(const Json& json) {
  Case item;
  json.at("task").get_to(item.task);
  json.at("length").get_to(item.length);
  json.at("index").get_to(item.index);
  json.at("seed").get_to(item.seed);
  json.at("filler").get_to(item.filler);
  json.at("document").get_to(item.document);
  item.depth = json.value("depth", -1.0);
  item.continuation = json.value("continuation", "");
  if (json.contains("question")) item.question = to_question(json["question"]);
  if (json.contains("follow_ups")) {
    for (const Json& question : json["follow_ups"]) {
      item.follow_ups.push_back(to_question(question));
    }
  }
  return item;
}

}  // namespace

std::string case_to_json(const Case& item) {
  Json json = {{"task", item.task},
               {"length", item.length},
               {"index", item.index},
               {"seed", item.seed},
               {"filler", item.filler}};
  if (item.depth >= 0) json["depth"] = item.depth;
  json["document"] = item.document;
  if (!item.question.text.empty()) json["question"] = to_json(item.question);
  for (const Question& question : item.follow_ups) json["follow_ups"].push_back(to_json(question));
  if (!item.continuation.empty()) json["continuation"] = item.continuation;
  return json.dump();
}

Result<Case> case_from_json(std::string_view json) {
  try {
    return to_case(Json::parse(json));
  } catch (const Json::exception& error) {
    return Status::error(StatusCode::kDataError, "this is no evaluation case: %s", error.what());
  }
}

}  // namespace tokensieve::cli::eval
