#include "stats.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "tokensieve/names.h"

namespace tokensieve::ggml {
namespace {

struct LayerSums {
  int64_t nodes = 0;
  int64_t sparse_nodes = 0;
  int64_t never_sparse_nodes = 0;
  double keep_ratios = 0;  // sum over sparse nodes
  double pairs = 0;
  double dense_pairs = 0;
  double masked_pairs = 0;
  double ms = 0;
  std::string reason;
  Products products = Products::kExact;
  std::string products_reason;
};

struct Shared {
  std::mutex mutex;
  std::map<int32_t, LayerSums> layers;
};

Shared& shared() {
  static Shared& instance = *new Shared;  // never destroyed: printed at exit
  return instance;
}

tokensieve_ggml_layer_stats summary(int32_t layer, const LayerSums& sums) {
  tokensieve_ggml_layer_stats stats = {};
  stats.struct_size = sizeof(stats);
  stats.layer = layer;
  stats.nodes = sums.nodes;
  stats.sparse_nodes = sums.sparse_nodes;
  stats.keep_ratio =
      sums.sparse_nodes > 0 ? sums.keep_ratios / static_cast<double>(sums.sparse_nodes) : 1.0;
  stats.work = sums.dense_pairs > 0 ? sums.pairs / sums.dense_pairs : 1.0;
  stats.attention_ms = sums.ms;
  stats.never_sparse_nodes = sums.never_sparse_nodes;
  stats.block_density = sums.dense_pairs > 0 ? sums.masked_pairs / sums.dense_pairs : 1.0;
  std::snprintf(stats.reason, sizeof(stats.reason), "%s", sums.reason.c_str());
  stats.products = static_cast<int32_t>(sums.products);
  std::snprintf(stats.products_reason, sizeof(stats.products_reason), "%s",
                sums.products_reason.c_str());
  return stats;
}

void print_row(std::FILE* file, const char* layer, const tokensieve_ggml_layer_stats& s) {
  std::fprintf(file, "tokensieve: %6s %6lld %7lld %6.3f %6.3f %6.3f %10.1f  %s\n", layer,
               static_cast<long long>(s.nodes), static_cast<long long>(s.sparse_nodes),
               s.keep_ratio, s.work, s.block_density, s.attention_ms, s.reason);
}

// A line for each kind of products that layers ran with.
void print_products(std::FILE* file, const std::map<int32_t, LayerSums>& layers) {
  std::map<std::pair<Products, std::string>, int> counts;
  for (const auto& [layer, sums] : layers) ++counts[{sums.products, sums.products_reason}];
  for (const auto& [did, count] : counts) {
    const auto& [products, reason] = did;
    const std::string why = reason.empty() ? "" : "; exact where " + reason;
    std::fprintf(file, "tokensieve: %s products, layers: %d%s\n", name_of(products), count,
                 why.c_str());
  }
}

}  // namespace

void add_to_stats(const NodeReport& report) {
  const std::lock_guard lock(shared().mutex);
  LayerSums& sums = shared().layers[report.layer];
  ++sums.nodes;
  sums.never_sparse_nodes += report.never_sparse;
  if (report.sparse) {
    ++sums.sparse_nodes;
    sums.keep_ratios += report.kept / report.tokens;
  }
  sums.pairs += report.pairs;
  sums.dense_pairs += report.dense_pairs;
  sums.masked_pairs += report.masked_pairs;
  sums.ms += report.ms;
  if (report.reason[0] != '\0') sums.reason = report.reason;
  sums.products = report.products;
  if (report.products_reason[0] != '\0') sums.products_reason = report.products_reason;
}

void reset_stats() {
  const std::lock_guard lock(shared().mutex);
  shared().layers.clear();
}

int32_t copy_stats(tokensieve_ggml_layer_stats* stats, int32_t capacity) {
  const std::lock_guard lock(shared().mutex);
  const auto count = static_cast<int32_t>(shared().layers.size());
  if (stats == nullptr || capacity <= 0) return count;
  const uint32_t size = stats->struct_size;  // the caller's, maybe an older, shorter struct
  char* out = reinterpret_cast<char*>(stats);
  for (const auto& [layer, sums] : shared().layers) {
    if (capacity-- <= 0) break;
    tokensieve_ggml_layer_stats entry = summary(layer, sums);
    entry.struct_size = size;
    std::memcpy(out, &entry, std::min<size_t>(size, sizeof(entry)));
    out += size;
  }
  return count;
}

void print_stats(std::FILE* file) {
  const std::lock_guard lock(shared().mutex);
  std::fprintf(file, "tokensieve: %6s %6s %7s %6s %6s %6s %10s  %s\n", "layer", "nodes", "sparse",
               "keep", "pairs", "tiles", "ms", "last dense reason");
  LayerSums total;
  for (const auto& [layer, sums] : shared().layers) {
    print_row(file, std::to_string(layer).c_str(), summary(layer, sums));
    total.nodes += sums.nodes;
    total.sparse_nodes += sums.sparse_nodes;
    total.keep_ratios += sums.keep_ratios;
    total.pairs += sums.pairs;
    total.dense_pairs += sums.dense_pairs;
    total.masked_pairs += sums.masked_pairs;
    total.ms += sums.ms;
  }
  print_row(file, "all", summary(-1, total));
  print_products(file, shared().layers);
}

}  // namespace tokensieve::ggml
