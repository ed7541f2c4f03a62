#include "common/options.h"
#include "profile_command.h"

namespace tokensieve::cli {

void add_profile_options(CLI::App& command, ProfileOptions& options) {
  add_model_options(command, options.model);
  command.add_option("--text", options.text, "real text to read, UTF-8; - for standard input")
      ->required()
      ->type_name("FILE");
  command.add_option("-o,--output", options.output, "profile to write; default: standard output")
      ->type_name("FILE");
  command
      .add_option("--max-tokens", options.max_tokens, "read at most this many tokens of the text")
      ->check(CLI::Range(64, 1 << 30))
      ->type_name("N")
      ->capture_default_str();
  auto* delta = command
                    .add_option("--delta", options.delta,
                                "layers whose drift is at most this quantile run sparse")
                    ->check(real_range(0, 1))
                    ->capture_default_str();
  command
      .add_option("--layers", options.layers,
                  "sparse layers instead of --delta, such as 2-29 or 14,15,20-37")
      ->type_name("LIST")
      ->excludes(delta);
  command.add_option("--min-tokens", options.min_tokens, "shorter prompts run dense")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->type_name("N")
      ->capture_default_str();
  command.add_flag("--verbose", options.verbose, "show llama.cpp's log");
  add_select_options(command, options.select);
  add_examples(command,
               "  tokensieve profile smollm2 --text book.txt -o smollm2.json\n"
               "  tokensieve profile model.gguf --text book.txt --layers 2-29 --keep-ratio 0.3 -o "
               "model.json\n");
}

}  // namespace tokensieve::cli
