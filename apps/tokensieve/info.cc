#include "info.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/command.h"
#include "common/options.h"
#include "common/paths.h"
#include "common/profiles.h"
#include "common/system.h"
#include "common/terminal.h"
#include "tokensieve/names.h"
#include "tokensieve/version.h"

#ifdef TOKENSIEVE_HAVE_LLAMA
#include <ggml.h>
#include <llama.h>
#endif

namespace tokensieve::cli {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> names_of(const std::vector<Isa>& isas) {
  std::vector<std::string> names;
  for (const Isa isa : isas) names.emplace_back(isa_name(isa));
  return names;
}

// What Isa::kAuto takes: the forced one, else the best that this CPU has.
std::string chosen_isa() {
  if (const auto forced = environment("TOKENSIEVE_ISA")) return *forced + " (TOKENSIEVE_ISA)";
  const std::vector<Isa> supported = supported_isas();
  return supported.empty() ? "none" : isa_name(supported.front());
}

// Which instruction set computes these products of an f16 cache, or why none does.
Json products_facts(Products products) {
  const Result<Plan> plan = make_plan({.seqlen_q = 1,
                                       .seqlen_kv = 1,
                                       .num_q_heads = 1,
                                       .num_kv_heads = 1,
                                       .head_dim = 64,
                                       .kv_dtype = DType::kF16},
                                      {.enabled = false}, {.products = products});
  if (!plan.ok()) return {{"isa", nullptr}, {"reason", plan.status().message()}};
  if (plan->products_reason != ProductsReason::kNone) {
    return {{"isa", nullptr}, {"reason", products_reason_text(plan->products_reason)}};
  }
  return {{"isa", isa_name(plan->options.isa)}, {"reason", ""}};
}

Json all_products_facts() {
  Json facts = Json::object();
  for (const Products products : {Products::kExact, Products::kSplit, Products::kBf16}) {
    facts[name_of(products)] = products_facts(products);
  }
  return facts;
}

std::vector<std::string> cached_models() {
  std::vector<std::string> models;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(cache_folder() / "models", error)) {
    if (entry.path().extension() == ".gguf") models.push_back(entry.path().filename().string());
  }
  std::sort(models.begin(), models.end());
  return models;
}

Json llama_facts() {
#ifdef TOKENSIEVE_HAVE_LLAMA
  return {{"version", llama_version()},
          {"ggml_version", ggml_version()},
          {"bin", llama_bin_folder().string()}};
#else
  return nullptr;
#endif
}

Json collect() {
  Json backends = Json::array();
  Json unusable = Json::array();  // in this build, but not on this machine
  for (size_t i = 1; i < kWords<Backend>.size(); ++i) {  // 0 is auto
    const auto backend = static_cast<Backend>(i);
    if (!backend_compiled(backend)) continue;
    (backend_available(backend) ? backends : unusable).push_back(backend_name(backend));
  }
  Json profiles = Json::array();
  for (const fs::path& path : shipped_profiles()) profiles.push_back(path.string());
  const auto plugin = find_plugin();
  return {{"version", TOKENSIEVE_VERSION_STRING},
          {"backends", backends},
          {"backends_unusable", unusable},
          {"isas_compiled", names_of(compiled_isas())},
          {"isas_supported", names_of(supported_isas())},
          {"isa", chosen_isa()},
          {"products", all_products_facts()},
          {"threads", default_threads()},
          {"gpu", describe_gpus()},
          {"llama", llama_facts()},
          {"plugin", plugin ? Json(plugin->string()) : Json(nullptr)},
          {"profiles", profiles},
          {"cache", cache_folder().string()},
          {"models", cached_models()}};
}

std::string list(const Json& names, const char* separator = ", ") {
  std::string text;
  for (const auto& name : names) {
    text += (text.empty() ? "" : separator) + name.get<std::string>();
  }
  return text.empty() ? "none" : text;
}

// "exact (avx512), split (amx)\nnot bf16: the instruction set has no matrix tiles".
std::string describe_products(const Json& products) {
  std::string present, missing;
  for (const auto& [name, facts] : products.items()) {
    if (facts["isa"].is_null()) {
      missing += fmt::format("\nnot {}: {}", name, facts["reason"].get<std::string>());
    } else {
      present += fmt::format("{}{} ({})", present.empty() ? "" : ", ", name,
                             facts["isa"].get<std::string>());
    }
  }
  return present + missing;
}

std::string describe_llama(const Json& llama) {
  if (llama.is_null()) return "not in this build; `make build` fetches and builds it";
  return fmt::format("{} (ggml {})\n{}", llama["version"].get<std::string>(),
                     llama["ggml_version"].get<std::string>(), llama["bin"].get<std::string>());
}

}  // namespace

void add_info_options(CLI::App& command, InfoOptions& options) {
  command.add_flag("--json", options.json, "print one JSON object");
  add_examples(command, "  tokensieve info\n  tokensieve info --json\n");
}

int run_info(const InfoOptions& options) {
  const Json facts = collect();
  if (options.json) {
    // File names may be anything.
    print_out("{}\n", facts.dump(2, ' ', false, Json::error_handler_t::replace));
    return kExitOk;
  }
  Table table;
  table.add_row({"version", facts["version"]});
  std::string backends = list(facts["backends"]);
  if (!facts["backends_unusable"].empty()) {
    backends += " (not on this machine: " + list(facts["backends_unusable"]) + ")";
  }
  table.add_row({"backends", backends});
  table.add_row(
      {"ISA", fmt::format("{} (this CPU: {}; this build: {})", facts["isa"].get<std::string>(),
                          list(facts["isas_supported"]), list(facts["isas_compiled"]))});
  table.add_row({"products", describe_products(facts["products"])});
  table.add_row({"threads", fmt::format("{}", facts["threads"].get<int>())});
  table.add_row({"GPU", facts["gpu"]});
  table.add_row({"llama.cpp", describe_llama(facts["llama"])});
  table.add_row({"plug-in", facts["plugin"].is_null() ? "not found; `make build` builds it"
                                                      : facts["plugin"].get<std::string>()});
  table.add_row({"profiles", list(facts["profiles"], "\n")});
  table.add_row({"cache", facts["cache"]});
  table.add_row({"models", list(facts["models"])});
  write_out(table.render());
  return kExitOk;
}

}  // namespace tokensieve::cli
