#include "verify/golden.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "core/work.h"
#include "tokensieve/names.h"
#include "verify/safetensors.h"

namespace tokensieve::verify {
namespace {

namespace fs = std::filesystem;

// Reads one file's metadata and tensors and remembers the first error.
class Reader {
 public:
  explicit Reader(const SafeTensors& file) : file_(file) {}

  Status status;

  void fail(const std::string& what) {
    if (!status.ok()) return;
    status =
        Status::error(StatusCode::kDataError, "%s: %s", file_.source_name().c_str(), what.c_str());
  }

  bool has(const char* key) const { return file_.metadata().contains(key); }

  // A number in the metadata; required unless `out` may keep its default.
  template <typename T>
  void number(const char* key, T& out, bool required = true) {
    if (!has(key)) {
      if (required) fail(std::string("metadata \"") + key + "\" is missing");
      return;
    }
    const std::string& text = file_.metadata().at(key);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, out);
    if (error != std::errc() || stop != end) {
      fail(std::string("metadata \"") + key + "\" is \"" + text.substr(0, 40) +
           "\"; allowed: a number");
    }
  }

  template <typename E>
  void word(const char* key, E& out) {
    if (!has(key)) return;
    const std::string& text = file_.metadata().at(key);
    if (const std::optional<E> value = parse<E>(text)) {
      out = *value;
    } else {
      fail(std::string("metadata \"") + key + "\" is \"" + text.substr(0, 40) +
           "\"; allowed: " + allowed_words<E>());
    }
  }

  // Copies a tensor whose shape must match; -1 matches and returns any size through `free_size`.
  template <typename T>
  void tensor(const char* name, const char* dtype, const std::vector<int64_t>& shape,
              std::vector<T>& out, int64_t* free_size = nullptr) {
    if (!status.ok()) return;
    const Result<const SafeTensor*> found = file_.get(name, dtype, shape.size());
    if (!found.ok()) {
      status = found.status();
      return;
    }
    const SafeTensor& tensor = **found;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] < 0) {
        *free_size = tensor.shape[axis];
      } else if (tensor.shape[axis] != shape[axis]) {
        return fail(std::string("tensor \"") + name + "\" has " +
                    std::to_string(tensor.shape[axis]) + " entries along axis " +
                    std::to_string(axis) + "; the other tensors need " +
                    std::to_string(shape[axis]));
      }
    }
    out.resize(tensor.bytes.size() / sizeof(T));
    if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  }

  // Index rows must ascend within [0, seqlen): consumers gather by them.
  void check_indices(const char* name, const std::vector<int32_t>& indices, int64_t columns,
                     int64_t seqlen) {
    for (size_t i = 0; status.ok() && i < indices.size(); ++i) {
      const bool first = columns == 0 || i % columns == 0;
      if (indices[i] < 0 || indices[i] >= seqlen || (!first && indices[i] <= indices[i - 1])) {
        fail(std::string("tensor \"") + name + "\" holds " + std::to_string(indices[i]) +
             " at entry " + std::to_string(i) + "; rows must ascend within 0.." +
             std::to_string(seqlen - 1));
      }
    }
  }

 private:
  const SafeTensors& file_;
};

void read_select(Reader& reader, SelectConfig& select) {
  reader.number("window", select.obs_window);
  reader.number("pool", select.pool_width);
  reader.number("min_tokens", select.min_keep);
  reader.number("coverage", select.tau, false);
  reader.number("keep_ratio", select.keep_ratio, false);
  reader.number("keep_count", select.keep_count, false);
  reader.number("local_window", select.local_window, false);
  reader.number("sinks", select.sinks, false);
  reader.number("protect_first", select.protect_first, false);
  reader.word("fill", select.fill);
  reader.word("share", select.share);
  if (reader.has("keep_ratio")) {
    select.budget = BudgetPolicy::kKeepRatio;
  } else if (reader.has("keep_count")) {
    select.budget = BudgetPolicy::kKeepCount;
  } else if (!reader.has("coverage")) {
    reader.fail("metadata has none of coverage, keep_ratio, keep_count");
  }
  select.dense_policy = DensePolicy::kNever;
}

void read_shape(Reader& reader, const SafeTensors& file, AttentionShape& shape) {
  const Result<const SafeTensor*> q = file.get("q", "BF16", 3);
  const Result<const SafeTensor*> k = file.get("k", "BF16", 3);
  if (!q.ok() || !k.ok()) {
    if (reader.status.ok()) reader.status = q.ok() ? k.status() : q.status();
    return;
  }
  for (const SafeTensor* tensor : {*q, *k}) {
    for (int64_t size : tensor->shape) {
      if (size < 1 || size > INT32_MAX) {
        return reader.fail("q or k has a dimension of " + std::to_string(size) +
                           "; allowed: 1..2^31-1");
      }
    }
  }
  shape = {.batch = 1,
           .seqlen_q = (*q)->shape[1],
           .seqlen_kv = (*k)->shape[1],
           .num_q_heads = static_cast<int32_t>((*q)->shape[0]),
           .num_kv_heads = static_cast<int32_t>((*k)->shape[0]),
           .head_dim = static_cast<int32_t>((*q)->shape[2]),
           .dtype = DType::kBF16,
           .kv_dtype = DType::kBF16};
}

}  // namespace

AttentionInputs GoldenCase::inputs() const {
  const AttentionShape& s = shape;
  const auto view = [&](const std::vector<uint16_t>& x, int64_t seqlen, int64_t heads) {
    return bhsd(x.data(), DType::kBF16, 1, seqlen, heads, s.head_dim);
  };
  return {.q = view(q, s.seqlen_q, s.num_q_heads),
          .k = view(k, s.seqlen_kv, s.num_kv_heads),
          .v = view(v, s.seqlen_kv, s.num_kv_heads)};
}

double GoldenCase::work() const {
  return static_cast<double>(pairs) / (shape.num_q_heads * dense_pairs(shape));
}

Result<GoldenCase> load_golden(const std::string& path) {
  const Result<SafeTensors> file = SafeTensors::load(path);
  if (!file.ok()) return file.status();
  GoldenCase c;
  c.name = fs::path(path).stem().string();
  Reader reader(*file);
  read_select(reader, c.select);
  read_shape(reader, *file, c.shape);
  reader.number("drop", c.drop);
  reader.number("keep", c.keep);
  reader.number("pairs", c.pairs, false);
  if (!reader.status.ok()) return reader.status;

  // The library's own checks, before anything is sized by these numbers.
  const Result<Plan> plan = make_plan(c.shape, c.select, {.backend = Backend::kRef});
  if (!plan.ok()) {
    reader.fail(plan.status().message());
    return reader.status;
  }
  const int64_t heads = c.shape.num_q_heads;
  const int64_t kv_heads = c.shape.num_kv_heads;
  const int64_t seqlen = c.shape.seqlen_kv;
  const int64_t dim = c.shape.head_dim;
  if (c.prefix_len() < 1) {
    reader.fail("k holds " + std::to_string(seqlen) + " tokens; allowed: more than the window (" +
                std::to_string(c.select.obs_window) + ")");
    return reader.status;
  }
  if (c.keep < 0 || c.keep > c.prefix_len()) {
    reader.fail("metadata \"keep\" is " + std::to_string(c.keep) + "; allowed: 0.." +
                std::to_string(c.prefix_len()));
    return reader.status;
  }
  if (c.pairs < 0) {
    reader.fail("metadata \"pairs\" is " + std::to_string(c.pairs) + "; allowed: >= 0");
    return reader.status;
  }
  c.kept = c.keep + c.select.obs_window;
  reader.tensor("q", "BF16", {heads, c.shape.seqlen_q, dim}, c.q);
  reader.tensor("k", "BF16", {kv_heads, seqlen, dim}, c.k);
  reader.tensor("v", "BF16", {kv_heads, seqlen, dim}, c.v);
  reader.tensor("score", "F32", {heads, c.prefix_len()}, c.score);
  reader.tensor("pooled", "F32", {heads, c.prefix_len()}, c.pooled);
  reader.tensor("layer", "F32", {c.prefix_len()}, c.layer);
  reader.tensor("indices", "I32", {heads, c.kept}, c.indices);
  reader.tensor("output", "F16", {heads, c.shape.seqlen_q, dim}, c.output);
  reader.check_indices("indices", c.indices, c.kept, seqlen);
  if (file->has("official_indices")) {
    reader.tensor("official_indices", "I32", {heads, -1}, c.official_indices, &c.official_kept);
    reader.check_indices("official_indices", c.official_indices, c.official_kept, seqlen);
  }
  if (!reader.status.ok()) return reader.status;
  return c;
}

Result<std::vector<std::string>> list_golden(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> paths;
  fs::directory_iterator entries(folder, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (entries->path().extension() == ".safetensors") paths.push_back(entries->path().string());
  }
  if (error || paths.empty()) {
    return Status::error(StatusCode::kNotFound,
                         "no golden cases: %s %s; name the folder of *.safetensors files, or set "
                         "TOKENSIEVE_GOLDEN_DIR",
                         folder.c_str(),
                         error ? error.message().c_str() : "holds no *.safetensors");
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace tokensieve::verify
