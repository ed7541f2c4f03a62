#include "tune_command.h"
#include "common/options.h"

namespace tokensieve::cli {
namespace {

// "0.5%" or "0.5": points of score.
std::string check_budget(const std::string& text) {
  double value = 0;
  std::string number = text;
  if (!number.empty() && number.back() == '%') number.pop_back();
  const bool ok = CLI::detail::lexical_cast(number, value) && value >= 0 && value < 100;
  return ok ? "" : "Value " + text + " is not a share such as 0.5% (from 0% to below 100%)";
}

}  // namespace

void add_tune_options(CLI::App& command, TuneOptions& options) {
  add_model_options(command, options.model);
  command
      .add_option("--budget", options.budget,
                  "answers that may be lost, as a share of the score on tasks that dense solves")
      ->check(CLI::Validator([](std::string& text) { return check_budget(text); }, ""))
      ->type_name("PERCENT")
      ->capture_default_str();
  command
      .add_option("--max-kl", options.max_kl,
                  "most KL(dense || sparse) on text and answers; it sees damage before they break")
      ->check(real_range(1e-6, 10))
      ->type_name("NATS")
      ->capture_default_str();
  command.add_option("--lengths", options.lengths, "prompt lengths in tokens")
      ->delimiter(',')
      ->check(CLI::Range(512, 1 << 24))
      ->type_name("LIST")
      ->default_str("4096");
  command
      .add_option("--cases", options.cases, "prompts of each task and length; default: 2, quick 1")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  command.add_option("--seed", options.seed, "other prompts for another seed")
      ->type_name("S")
      ->capture_default_str();
  command
      .add_option("--ladder", options.ladder,
                  "selections to try, as keys of `eval --config`; a list is a rung each")
      ->type_name("KEYS")
      ->capture_default_str();
  add_ubatch_option(command, options.ubatch);
  add_products_option(command, options.products,
                      "of what is compared with exact dense attention, and of the profile");
  command.add_option("-o,--output", options.output, "profile to write; default: standard output")
      ->type_name("FILE");
  command
      .add_option("--results", options.results,
                  "measurements; the same search goes on where it stopped; default: a name for it")
      ->type_name("FILE");
  command.add_flag("--quick", options.quick,
                   "1024 tokens, two rungs, one prompt each: a first look");
  command.add_option("--system", options.system, "system prompt; default: the model's")
      ->type_name("TEXT");
  command.add_flag("--verbose", options.verbose, "show llama.cpp's log");
  add_examples(command,
               "  tokensieve tune smollm2 --budget 0.5% -o smollm2.json\n"
               "  tokensieve tune model.gguf --lengths 4096,8192 --ladder keep=.1/.2,window=256 "
               "\\\n"
               "      --results search.jsonl -o model.json\n"
               "  tokensieve report search.jsonl -o search.html\n");
}

}  // namespace tokensieve::cli
