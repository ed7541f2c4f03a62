// A strict reader of safetensors files: every byte of the file is accounted for, or it is an error
// that names the file, the tensor and the value. Safe on hostile input; it never throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::verify {

struct SafeTensor {
  std::string dtype;  // the file's word: F32, F16, BF16, I32, ...
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // inside the file; of any alignment
};

class SafeTensors {
 public:
  // kNotFound if the file cannot be read, kDataError if it is malformed.
  static Result<SafeTensors> load(const std::string& path);
  // `source_name` is what errors call it.
  static Result<SafeTensors> parse(std::vector<std::byte> file, const std::string& source_name);

  // The spans in `tensors_` point into `file_`, whose memory a move keeps.
  SafeTensors(SafeTensors&&) = default;
  SafeTensors& operator=(SafeTensors&&) = default;
  SafeTensors(const SafeTensors&) = delete;
  SafeTensors& operator=(const SafeTensors&) = delete;

  const std::string& source_name() const { return source_name_; }
  const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }

  // The tensor, if it has this dtype and number of dimensions.
  Result<const SafeTensor*> get(const std::string& name, const std::string& dtype,
                                size_t dimensions) const;

 private:
  SafeTensors() = default;

  std::string source_name_;
  std::vector<std::byte> file_;
  std::map<std::string, SafeTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace tokensieve::verify
