#include <fmt/format.h>
#include <fmt/ranges.h>

#include "eval/case.h"
#include "eval/config.h"
#include "eval_command.h"
#include "common/options.h"
#include "common/output.h"

namespace tokensieve::cli {
namespace {

// `--config list` prints the presets as --help would: no model is needed.
void list_presets(const std::string& spec) {
  if (spec != "list") return;
  write_out(eval::describe_configs());
  throw CLI::Success();
}

void add_case_options(CLI::App& command, EvalOptions& options) {
  command
      .add_option("--tasks", options.tasks,
                  fmt::format("all, or some of {}", fmt::join(eval::task_names(), ", ")))
      ->delimiter(',')
      ->type_name("LIST")
      ->default_str("6 tasks");
  command.add_option("--lengths", options.lengths, "prompt lengths in tokens")
      ->delimiter(',')
      ->check(CLI::Range(128, 1 << 24))
      ->type_name("LIST")
      ->default_str("1024,2048,4096");
  command.add_option("--cases", options.cases, "prompts of each task and length")
      ->check(CLI::Range(1, 100000))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--seed", options.seed, "other prompts for another seed")
      ->type_name("S")
      ->capture_default_str();
}

}  // namespace

void add_eval_options(CLI::App& command, EvalOptions& options) {
  add_model_options(command, options.model);
  add_case_options(command, options);
  command
      .add_option("--config", options.configs,
                  "what to compare, as PRESET or PRESET:key=value,...; repeat it; `list` explains "
                  "all of them")
      ->type_name("NAME")
      ->default_str(fmt::format("{}", fmt::join(eval::default_configs(), " ")))
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->each(list_presets);
  command
      .add_option("--profile", options.profile,
                  "layer profile: a file or a shipped name; default: the model's")
      ->type_name("FILE");
  add_ubatch_option(command, options.ubatch);
  add_products_option(command, options.products,
                      "of configurations that select and name none; default: the profile's");
  command
      .add_option("-o,--output", options.output,
                  "results, one JSON object a line; the same command goes on where it stopped; "
                  "default: a name for this run")
      ->type_name("FILE");
  command.add_flag_callback(
      "--resume", [] {}, "accepted for clarity: a run always goes on where it stopped");
  command
      .add_option("--inspect", options.inspect,
                  "for the first N cases also write which tokens every layer kept")
      ->check(CLI::Range(0, 1000))
      ->type_name("N");
  command
      .add_option("--write-cases", options.write_cases,
                  "write the prompts as token ids, for runs elsewhere, and run nothing")
      ->type_name("FILE");
  command.add_option("--system", options.system, "system prompt; default: the model's")
      ->type_name("TEXT");
  command.add_flag("--json", options.json, "print the summary as JSON");
  command.add_flag("--verbose", options.verbose, "show llama.cpp's log");
  add_examples(
      command,
      "  tokensieve eval smollm2 --lengths 2048 --cases 2\n"
      "  tokensieve eval smollm2 --tasks multi_key,text --lengths 7680 --config sparse \\\n"
      "      --config none --config forced:keep=.1/.2,layers=10-29 -o run.jsonl\n"
      "  tokensieve eval --config list\n"
      "  tokensieve report run.jsonl -o report.html\n");
}

}  // namespace tokensieve::cli
