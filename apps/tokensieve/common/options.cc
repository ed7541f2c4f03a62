#include "common/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <type_traits>

#include "common/blocks.h"
#include "tokensieve/names.h"

namespace tokensieve::cli {
namespace {

// --keep-ratio
std::string option_name(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

// --keep-ratio,--keep
std::string option_names(const SelectField& about) {
  const std::string name = option_name(about.name);
  const bool same = std::string_view(about.alias) == about.name;
  return same ? name : name + "," + option_name(about.alias);
}

template <typename Field>
CLI::Validator check_of(const Field& about) {
  return CLI::Validator(
      [about](std::string& text) {
        double value = 0;
        const bool ok = CLI::detail::lexical_cast(text, value) && about.allows(value);
        return ok ? std::string() : fmt::format("Value {}; allowed: {}", text, about.allowed);
      },
      "");
}

template <typename T>
CLI::Option* add_field(CLI::App& command, const SelectField& about, SelectConfig& select,
                       T& value) {
  const std::string names = option_names(about);
  if constexpr (std::is_enum_v<T>) {
    std::map<std::string, T> words;
    for (size_t i = 0; i < kWords<T>.size(); ++i) words[kWords<T>[i]] = static_cast<T>(i);
    return add_choice(command, names, value, words, about.help);
  } else {
    const auto set = [&select, &value, budget = about.of_budget](const T& given) {
      value = given;
      select.budget = budget.value_or(select.budget);
    };
    const std::string help =
        fmt::format("{}{}: {}", about.of_budget ? "budget: " : "", about.help, about.allowed);
    CLI::Option* option =
        command.add_option_function<T>(names, set, help)->check(check_of(about));
    const bool shown = !about.of_budget || about.used_by(select);
    return shown ? option->default_str(fmt::format("{}", value)) : option;
  }
}

}  // namespace

CLI::Option* add_blocks_option(CLI::App& command, std::optional<BlockPattern>& pattern) {
  std::vector<std::string> words = {name_of(BlockPattern::kNone)};
  for (const BlockPattern estimated : kEstimatedPatterns) words.emplace_back(name_of(estimated));
  return command
      .add_option_function<std::string>(
          "--blocks",
          [&pattern](const std::string& word) { pattern = parse<BlockPattern>(word); },
          "block masks over the selected tokens, with default settings; default: the profile's")
      ->check(CLI::IsMember(words))
      ->type_name(fmt::format("{}", fmt::join(words, "|")));
}

void add_block_options(CLI::App& command, BlockConfig& blocks) {
  for_each_field(blocks, [&](const BlockField& about, auto& value) {
    using Value = std::remove_cvref_t<decltype(value)>;
    if constexpr (std::is_arithmetic_v<Value>) {
      command
          .add_option(option_name(about.name), value,
                      fmt::format("{}: {}: {}", readers_of(about), about.help, about.allowed))
          ->check(check_of(about))
          ->group("Block masks")
          ->capture_default_str();
    }
  });
}

Status check_block_options(const CLI::App& command, const BlockConfig& blocks) {
  Status status;
  for_each_field(blocks, [&]<typename Value>(const BlockField& about, const Value&) {
    if constexpr (std::is_arithmetic_v<Value>) {
      const std::string name = option_name(about.name);
      if (!status.ok() || command.count(name) == 0 || about.used_by(blocks)) return;
      const std::string given = name + " " + command.get_option(name)->as<std::string>();
      status = unread_setting(about, given, blocks.pattern, "--blocks ");
    }
  });
  return status;
}

void add_ubatch_option(CLI::App& command, int32_t& ubatch) {
  command
      .add_option("--ubatch", ubatch,
                  "tokens of a prompt that are read at a time; llama.cpp's own attention reads 512")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N")
      ->capture_default_str();
}

CLI::Option* add_products_option(CLI::App& command, Products& products, const std::string& help) {
  return command
      .add_option_function<std::string>(
          "--products",
          [&products](const std::string& word) { products = *parse<Products>(word); },
          "how attention multiplies on the CPU (docs/products.md); " + help)
      ->check(CLI::IsMember(std::vector<std::string>(kWords<Products>.begin(),
                                                     kWords<Products>.end())))
      ->envname("TOKENSIEVE_PRODUCTS")
      ->type_name(fmt::format("{}", fmt::join(kWords<Products>, "|")));
}

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
  std::vector<CLI::Option*> budgets;  // naming the value of one chooses it
  for_each_field(select, [&](const SelectField& about, auto& value) {
    using Value = std::remove_cvref_t<decltype(value)>;
    if constexpr (!std::is_same_v<Value, bool> && !std::is_same_v<Value, BudgetPolicy>) {
      if (about.group == SelectField::Group::kCall) return;
      CLI::Option* option = add_field(command, about, select, value);
      option->group("What a sparse layer keeps");
      if (!about.of_budget) return;
      for (CLI::Option* other : budgets) option->excludes(other);
      budgets.push_back(option);
    }
  });
}

void add_examples(CLI::App& command, const std::string& examples) {
  command.footer("Examples:\n" + examples);
}

}  // namespace tokensieve::cli
