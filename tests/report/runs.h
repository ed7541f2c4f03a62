// EvalRun files for tests, line by line.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

inline constexpr const char* kHeader =
    R"({"type":"run","format":1,"model":{"name":"tiny"},"configs":[)"
    R"({"name":"stock","kind":"stock"},{"name":"dense","kind":"dense"},{"name":"sparse","kind":"sparse"}]})"
    "\n";

inline std::string result(const std::string& task, int length, int index, const std::string& config,
                          const std::string& rest) {
  return R"({"type":"result","task":")" + task + R"(","length":)" + std::to_string(length) +
         R"(,"case":)" + std::to_string(index) + R"(,"config":")" + config + "\"," + rest + "}\n";
}

inline EvalRun parsed(const std::string& text) {
  Result<EvalRun> run = parse_run(text, "run.jsonl");
  EXPECT_TRUE(run.ok()) << run.status().message();
  return run.ok() ? std::move(run.value()) : EvalRun();
}

}  // namespace tokensieve::eval::report
