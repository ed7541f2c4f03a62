#include "verify/compare.h"

#include <algorithm>
#include <iterator>

namespace tokensieve::cli {

std::vector<int32_t> only_in(std::span<const int32_t> a, std::span<const int32_t> b) {
  std::vector<int32_t> result;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

std::string index_text(int64_t flat, std::span<const int64_t> shape) {
  std::string text;
  for (size_t axis = shape.size(); axis-- > 0; flat /= shape[axis]) {
    text = std::to_string(flat % shape[axis]) + (text.empty() ? "" : ", ") + text;
  }
  return "[" + text + "]";
}

}  // namespace tokensieve::cli
