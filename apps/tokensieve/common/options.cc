#include "common/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

namespace tokensieve::cli {
namespace {

CLI::Validator remainder_check(int64_t divisor, int64_t remainder, const std::string& allowed) {
  return CLI::Validator(
      [=](std::string& text) {
        const bool ok = std::strtoll(text.c_str(), nullptr, 10) % divisor == remainder;
        return ok ? std::string() : fmt::format("Value {} is not {}", text, allowed);
      },
      "");
}

}  // namespace

CLI::Validator real_range(double least, double most) {
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        const bool ok = CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
        return ok ? std::string()
                  : fmt::format("Value {} is not a number from {} to {}", text, least, most);
      },
      "");
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  command
      .add_option(
          "MODEL", options.model,
          fmt::format("a GGUF file or a short name: {}", fmt::join(short_model_names(), ", ")))
      ->required()
      ->type_name("");
  command.add_option("--lora", options.lora, "LoRA adapter (GGUF)")->type_name("FILE");
  add_choice<RopeScaling>(command, "--rope-scaling", options.rope_scaling,
                          {{"none", RopeScaling::kNone},
                           {"linear", RopeScaling::kLinear},
                           {"yarn", RopeScaling::kYarn}},
                          "RoPE scaling; default: the model's")
      ->default_str("");
  command
      .add_option("--rope-scale", options.rope_scale, "RoPE context factor; default: the model's")
      ->check(real_range(1, 1024))
      ->type_name("FACTOR");
  command
      .add_option("--yarn-orig-ctx", options.yarn_orig_ctx,
                  "context that the model was trained with before YaRN; default: the model's")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command.add_option("--threads", options.threads, "threads; default: one per physical core")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
}

void add_select_options(CLI::App& command, SelectConfig& select) {
  const auto is = [&select](BudgetPolicy policy) { return select.budget == policy; };
  // Naming a value of a budget also chooses it; only one may be named.
  const auto add_budget = [&](const char* name, auto SelectConfig::*field, BudgetPolicy policy,
                              const char* help) {
    using Value = std::remove_reference_t<decltype(select.*field)>;
    return command.add_option_function<Value>(
        name,
        [&select, field, policy](const Value& value) {
          select.*field = value;
          select.budget = policy;
        },
        help);
  };
  auto* tau = add_budget("--tau", &SelectConfig::tau, BudgetPolicy::kTau,
                         "budget: share of score mass that may be dropped (the paper: 0.005)");
  auto* ratio = add_budget("--keep-ratio", &SelectConfig::keep_ratio, BudgetPolicy::kKeepRatio,
                           "budget: share of the prefix tokens that is kept");
  auto* count = add_budget("--keep-count", &SelectConfig::keep_count, BudgetPolicy::kKeepCount,
                           "budget: number of prefix tokens that is kept");
  tau->check(real_range(0, 0.999999))->excludes(ratio)->excludes(count);
  ratio->check(real_range(1e-6, 1))->excludes(count);
  count->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  if (is(BudgetPolicy::kTau)) tau->default_str(fmt::format("{}", select.tau));
  if (is(BudgetPolicy::kKeepRatio)) ratio->default_str(fmt::format("{}", select.keep_ratio));

  const auto number = [&command](const char* name, auto& value, auto least, auto most,
                                 const char* help) {
    return command.add_option(name, value, help)
        ->check(CLI::Range(least, most))
        ->capture_default_str();
  };
  const std::vector<CLI::Option*> all = {
      tau,
      ratio,
      count,
      add_choice<Fill>(command, "--fill", select.fill,
                       {{"zero", Fill::kZero}, {"local", Fill::kLocal}},
                       "what rows of dropped tokens get"),
      add_choice<Share>(command, "--share", select.share,
                        {{"head", Share::kHead}, {"kv", Share::kKv}, {"layer", Share::kLayer}},
                        "whose scores are averaged before the top tokens are taken"),
      number("--window", select.local_window, 0, 1 << 20,
             "local fill: neighbours, a multiple of 64")
          ->check(remainder_check(kLocalBlock, 0, "a multiple of 64")),
      number("--sinks", select.sinks, 0, 64, "local fill: first tokens that every row sees"),
      number("--obs-window", select.obs_window, 1, 4096, "last queries that score the prefix"),
      number("--pool-width", select.pool_width, 1, 1023, "smoothing width of the scores, odd")
          ->check(remainder_check(2, 1, "odd")),
      number("--min-keep", select.min_keep, int64_t{0}, int64_t{1} << 30,
             "fewest prefix tokens that are kept"),
      command
          .add_option("--min-drop", select.min_drop,
                      "run dense unless this share of the prefix is dropped")
          ->check(real_range(0, 0.999999))
          ->capture_default_str()};
  for (CLI::Option* option : all) option->group("What a sparse layer keeps");
}

void add_examples(CLI::App& command, const std::string& examples) {
  command.footer("Examples:\n" + examples);
}

}  // namespace tokensieve::cli
