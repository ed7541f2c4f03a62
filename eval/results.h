// The results file: a header, then one JSON object a line, written as soon as it is known. Running
// the same evaluation again goes on where it stopped. docs/evaluation.md, "File format".
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "eval/schema.h"
#include "tokensieve/status.h"

namespace tokensieve::eval {

class ResultsFile {
 public:
  // Creates `path`, or opens it to go on: its header must be that of this run, in the keys that
  // decide what is measured. A line torn by an interruption is cut off. Errors: not a results file,
  // another run's, damaged, in use, not writable; nothing is changed then.
  static Result<ResultsFile> open(const std::string& path, const Json& header);

  ResultsFile(ResultsFile&& other) noexcept;
  ResultsFile& operator=(ResultsFile&&) = delete;
  ~ResultsFile();

  const std::string& path() const { return path_; }
  // Lines of an earlier call, without the header.
  const std::vector<Json>& earlier() const { return earlier_; }
  bool resumed() const { return resumed_; }

  // Error: the disk is full or the file is gone; earlier lines stay.
  Status append(const Json& line);

 private:
  ResultsFile() = default;
  Status read(const Json& header);

  std::string path_;
  int fd_ = -1;
  bool resumed_ = false;
  std::vector<Json> earlier_;
};

// What identifies a "result" line: task, length, case and configuration.
std::string result_key(const Json& line);
std::string result_key(std::string_view task, int32_t length, int32_t index,
                       std::string_view config);

}  // namespace tokensieve::eval
