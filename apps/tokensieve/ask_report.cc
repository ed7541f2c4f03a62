#include "ask_report.h"

#include <fmt/format.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "common/layer_means.h"
#include "common/terminal.h"
#include "tokensieve/names.h"

namespace tokensieve::cli {
namespace {

constexpr size_t kAnswerColumns = 30;
constexpr int kChartCells = 30;

double tokens_per_second(const AskReport& report, const AskRun& run) {
  return run.prefill_ms > 0 ? report.prompt_tokens / run.prefill_ms * 1000 : 0;
}

int sparse_layer_count(const AskRun& run) { return means_of(run.layers).sparse_layers; }

std::string join_lines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

std::string times(double value) { return fmt::format("x{:.2f}", value); }

std::string layer_chart(const AskRun& run) {
  std::string text = fmt::format("Kept tokens per layer ({}):\n", attention_name(run.attention));
  for (const LayerStats& layer : run.layers) {
    const bool sparse = layer.ran_sparse();
    text += fmt::format("  {:>3} ▕{}▏ {:>3.0f} %{}\n", layer.layer,
                        bar(layer.keep_ratio, kChartCells), layer.keep_ratio * 100,
                        sparse ? "" : "  dense");
  }
  return text;
}

}  // namespace

std::string report_json(const AskReport& report) {
  using Json = nlohmann::ordered_json;
  Json runs = Json::array();
  for (const AskRun& run : report.runs) {
    Json item = {{"attention", attention_name(run.attention)},
                 {"prefill_ms", run.prefill_ms},
                 {"attention_ms", run.attention_ms},
                 {"keep_ratio", run.keep_ratio},
                 {"answer", run.answer},
                 {"mode", run.mode},
                 {"ubatch", run.ubatch},
                 {"tokens_per_second", tokens_per_second(report, run)},
                 {"work", run.work},
                 {"block_density", run.block_density},
                 {"products", run.products},
                 {"sparse_layers", sparse_layer_count(run)},
                 {"memory_bytes", run.memory_bytes}};
    for (const LayerStats& l : run.layers) {
      item["layers"].push_back({{"layer", l.layer},
                                {"sparse", l.ran_sparse()},
                                {"keep_ratio", l.keep_ratio},
                                {"block_density", l.block_density},
                                {"products", name_of(l.products)},
                                {"attention_ms", l.attention_ms}});
    }
    runs.push_back(std::move(item));
  }
  const Json root = {{"prompt_tokens", report.prompt_tokens},
                     {"model", report.model},
                     {"threads", report.threads},
                     {"profile", report.profile},
                     {"runs", runs}};
  // An answer cut inside a character must not make the whole report unprintable.
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string report_table(const AskReport& report, bool color) {
  const AskRun& stock = report.runs.front();
  Table table;
  const auto row = [&](const std::string& name,
                       const std::function<std::string(const AskRun&)>& f) {
    std::vector<std::string> cells = {name};
    for (const AskRun& run : report.runs) cells.push_back(f(run));
    table.add_row(std::move(cells));
  };
  row("", [](const AskRun& r) { return std::string(attention_name(r.attention)); });
  row("prefill", [](const AskRun& r) { return format_duration(r.prefill_ms); });
  row("  tokens/s",
      [&](const AskRun& r) { return fmt::format("{:.0f}", tokens_per_second(report, r)); });
  row("  speed-up", [&](const AskRun& r) { return times(stock.prefill_ms / r.prefill_ms); });
  row("attention", [](const AskRun& r) { return format_duration(r.attention_ms); });
  row("  speed-up", [&](const AskRun& r) { return times(stock.attention_ms / r.attention_ms); });
  row("work", [](const AskRun& r) { return fmt::format("{:.0f} %", r.work * 100); });
  row("sparse layers", [](const AskRun& r) { return fmt::format("{}", sparse_layer_count(r)); });
  row("kept in them", [](const AskRun& r) { return fmt::format("{:.0f} %", r.keep_ratio * 100); });
  row("tiles visited",
      [](const AskRun& r) { return fmt::format("{:.0f} %", r.block_density * 100); });
  row("products", [](const AskRun& r) {
    return join_lines(wrap(r.products, kAnswerColumns));
  });
  row("memory", [](const AskRun& r) { return format_bytes(static_cast<double>(r.memory_bytes)); });
  row("mode, ubatch", [](const AskRun& r) { return fmt::format("{}, {}", r.mode, r.ubatch); });
  row("answer", [](const AskRun& r) { return join_lines(wrap(r.answer, kAnswerColumns)); });
  row("  as stock's", [&](const AskRun& r) { return r.answer == stock.answer ? "yes" : "no"; });

  std::string text = bold(fmt::format("{}, {} prompt tokens, {} threads", report.model,
                                      format_count(report.prompt_tokens), report.threads),
                          color) +
                     "\n\n" + table.render() + "\n";
  for (const AskRun& run : report.runs) {
    if (run.attention != Attention::kSparse) continue;
    text += layer_chart(run);
    if (const std::string why = why_dense(run); !why.empty()) text += why + "\n";
  }
  text +=
      "stock: llama.cpp's own flash attention at its default ubatch; memory: most anonymous\n"
      "memory above the level before the context was made (KV cache, graph, workspace)\n";
  return text;
}

std::string report_line(const AskReport& report, const AskRun& run) {
  std::string text = fmt::format("{}: {} tokens in {} ({:.0f} tokens/s), attention {}",
                                 attention_name(run.attention), format_count(report.prompt_tokens),
                                 format_duration(run.prefill_ms), tokens_per_second(report, run),
                                 format_duration(run.attention_ms));
  if (const int sparse = sparse_layer_count(run); sparse > 0) {
    text += fmt::format(", {} sparse layers keep {:.0f} %", sparse, run.keep_ratio * 100);
  }
  if (run.block_density < 1) {
    text += fmt::format(", block masks visit {:.0f} % of the tiles", run.block_density * 100);
  }
  if (run.products != "exact" && !run.products.empty()) {
    text += fmt::format(", {} products", run.products);
  }
  return text;
}

std::string why_dense(const AskRun& run) {
  if (run.attention != Attention::kSparse || sparse_layer_count(run) > 0) return "";
  for (const LayerStats& layer : run.layers) {
    if (!layer.dense_reason.empty()) {
      return fmt::format("no layer ran sparse (layer {}: {})", layer.layer, layer.dense_reason);
    }
  }
  return "no layer ran sparse: llama.cpp gave the plug-in no attention to compute";
}

}  // namespace tokensieve::cli
