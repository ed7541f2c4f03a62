// Options that several commands share: each has its name, default, help and check here, once.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/models.h"
#include "tokensieve/backend.h"
#include "tokensieve/blocks.h"
#include "tokensieve/select.h"
#include "tokensieve/status.h"

namespace tokensieve::cli {

// An option whose words stand for enumerators; the word of `value` is the default in the help.
template <typename E>
CLI::Option* add_choice(CLI::App& command, const std::string& name, E& value,
                        const std::map<std::string, E>& words, const std::string& help) {
  std::vector<std::string> keys;
  std::string current, allowed;
  for (const auto& [word, enumerator] : words) {
    keys.push_back(word);
    if (enumerator == value) current = word;
    allowed += (allowed.empty() ? "" : "|") + word;
  }
  return command
      .add_option_function<std::string>(
          name, [&value, words](const std::string& word) { value = words.at(word); }, help)
      ->check(CLI::IsMember(keys))
      ->type_name(allowed)
      ->default_str(current);
}

// MODEL, --lora, --rope-scaling, --rope-scale, --yarn-orig-ctx, --threads.
void add_model_options(CLI::App& command, ModelOptions& options);

// The fields of SelectConfig that profiles have, with `select`'s present values as defaults.
void add_select_options(CLI::App& command, SelectConfig& select);

// --blocks: an estimated pattern, or none.
CLI::Option* add_blocks_option(CLI::App& command, std::optional<BlockPattern>& pattern);

// The other fields of BlockConfig, with the present values as defaults.
void add_block_options(CLI::App& command, BlockConfig& blocks);

// Error: one of them was given that the pattern does not read.
Status check_block_options(const CLI::App& command, const BlockConfig& blocks);

// --ubatch, with the present value as default.
void add_ubatch_option(CLI::App& command, int32_t& ubatch);

// --products, or TOKENSIEVE_PRODUCTS in the environment, as the plug-in has it.
CLI::Option* add_products_option(CLI::App& command, Products& products, const std::string& help);

// A finite number from `least` to `most` (CLI::Range lets NaN through).
CLI::Validator real_range(double least, double most);

// Help text that follows the options, e.g. examples.
void add_examples(CLI::App& command, const std::string& examples);

}  // namespace tokensieve::cli
