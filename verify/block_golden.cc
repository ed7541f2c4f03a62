#include "verify/block_golden.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "core/json_fields.h"
#include "core/tiles.h"
#include "verify/block_entries.h"
#include "verify/safetensors.h"

namespace tokensieve::verify {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostTokens = int64_t{1} << 20;

Status bad_file(const SafeTensors& file, const std::string& what) {
  return Status::error(StatusCode::kDataError, "%s: %s", file.source_name().c_str(), what.c_str());
}

// The .json beside a golden: what its inputs were made from.
struct Description {
  int64_t tokens = 0;
  std::pair<int32_t, int32_t> heads;  // of q and of k
  uint64_t seed = 0;
  std::string sha256, rounding;
};

Result<Description> read_description(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    return Status::error(StatusCode::kNotFound,
                         "cannot read %s, which must say n, heads and seed of the inputs",
                         path.c_str());
  }
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const Result<Json> json = parse_json(text, path);
  if (!json.ok()) return json.status();
  Description d;
  JsonFields fields(*json, path);
  fields.require({"n", "heads", "seed"});
  fields.read("n", d.tokens, kMostTokens);
  fields.read("heads", d.heads);
  fields.read("seed", d.seed);
  fields.read("inputs_sha256", d.sha256);
  fields.read("rounding", d.rounding);
  const auto [q, kv] = d.heads;
  if (fields.ok() && (q < 1 || q > 1024 || kv < 1 || q % kv != 0)) {
    fields.refuse("heads", json->at("heads"), "[q heads, kv heads that divide them], at most 1024");
  }
  if (fields.ok() && d.tokens < kBlockInputsLeast) {
    fields.refuse("n", json->at("n"), std::to_string(kBlockInputsLeast) + " to 2^20");
  }
  if (!fields.ok()) return fields.status();
  return d;
}

// Bits of a file's q, k or v that are not those of the hash.
Status compare_inputs(const SafeTensors& file, BlockGolden& golden) {
  Check check = {"inputs", "different values", 0.0, 0.0, "q, k, v of the file and of the hash"};
  for (const auto& [name, own] : {std::pair{"q", &golden.inputs.q}, {"k", &golden.inputs.k},
                                  {"v", &golden.inputs.v}}) {
    const Result<const SafeTensor*> found = file.get(name, "BF16", 3);
    if (!found.ok()) return found.status();
    if ((*found)->bytes.size() != own->size() * sizeof(uint16_t)) {
      return bad_file(file, std::string("tensor \"") + name + "\" is not of the size that n and " +
                                "heads of the .json say");
    }
    std::vector<uint16_t> held(own->size());
    std::memcpy(held.data(), (*found)->bytes.data(), (*found)->bytes.size());
    for (size_t i = 0; i < held.size(); ++i) check.error += held[i] != (*own)[i];
  }
  golden.checks.push_back(check);
  return {};
}

Status read_tokens(const SafeTensors& file, BlockGolden& golden) {
  if (!file.has("tokens.indices")) return {};
  const Result<const SafeTensor*> found = file.get("tokens.indices", "I32", 2);
  if (!found.ok()) return found.status();
  const SafeTensor& tensor = **found;
  const int64_t heads = golden.inputs.shape.num_q_heads, n = golden.inputs.shape.seqlen_kv;
  golden.kept = tensor.shape[1];
  if (tensor.shape[0] != heads || golden.kept < kBlock || golden.kept >= n) {
    return bad_file(file, "tensor \"tokens.indices\" must be [q heads, 128 to n - 1]");
  }
  golden.tokens.resize(static_cast<size_t>(heads * golden.kept));
  std::memcpy(golden.tokens.data(), tensor.bytes.data(), tensor.bytes.size());
  return {};
}

}  // namespace

bool is_block_golden(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  return name.starts_with("official_") || name.starts_with("blocks_");
}

Result<Plan> BlockGolden::plan_of(const BlockEntry& entry, const PlanOptions& options) const {
  SelectConfig select = {.enabled = entry.on_tokens, .dense_policy = DensePolicy::kNever};
  if (entry.on_tokens) {
    select.budget = BudgetPolicy::kKeepCount;
    select.keep_count = kept - select.obs_window;
    select.min_keep = 0;
  }
  return make_plan(inputs.shape, select, entry.blocks, options);
}

Result<BlockGolden> load_block_golden(const std::string& path) {
  const Result<SafeTensors> file = SafeTensors::load(path);
  if (!file.ok()) return file.status();
  const Result<Description> described =
      read_description(fs::path(path).replace_extension(".json").string());
  if (!described.ok()) return described.status();
  BlockGolden golden;
  golden.name = fs::path(path).stem().string();
  golden.exact = described->rounding == "exact";
  golden.inputs = make_block_inputs(described->tokens, described->heads.first,
                                    described->heads.second, described->seed);
  if (file->has("q")) TOKENSIEVE_RETURN_IF_ERROR(compare_inputs(*file, golden));
  if (!described->sha256.empty()) {
    const std::string own = golden.inputs.sha256();
    golden.checks.push_back({"inputs", "SHA-256 differs", own == described->sha256 ? 0.0 : 1.0, 0.0,
                             own.substr(0, 16) + "..."});
  }
  TOKENSIEVE_RETURN_IF_ERROR(read_tokens(*file, golden));

  std::set<std::string> names;
  for (const auto& [name, tensor] : file->tensors()) {
    const size_t dot = name.rfind('.');
    if (dot != std::string::npos && name != "tokens.indices") names.insert(name.substr(0, dot));
  }
  for (const std::string& name : names) {
    TOKENSIEVE_RETURN_IF_ERROR(read_block_entries(*file, name, golden));
  }
  return golden;
}

}  // namespace tokensieve::verify
