#include <fmt/format.h>

#include <map>

#include "ask.h"
#include "common/options.h"
#include "common/output.h"

namespace tokensieve::cli {
namespace {

// `--file A B "question?"`: an option with several values takes the question as well, so the last
// value is the question when none was given before. Keeps `ask MODEL --file DOC... QUESTION`
// working wherever other options stand.
void settle_question(AskOptions& options) {
  if (options.question.empty() && options.files.size() > 1) {
    options.question = options.files.back();
    options.files.pop_back();
  }
  if (options.question.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw CLI::ValidationError("QUESTION",
                               "the question is missing or empty; give one after the documents");
  }
  if (options.context > 0 && options.ubatch > options.context) {
    throw CLI::ValidationError(
        "--ubatch", fmt::format("{} is beyond --ctx {}", options.ubatch, options.context));
  }
}

// Throws where no run would read what was given.
void check_given(const CLI::App& command, const AskOptions& options) {
  if (options.compare || options.attention == Attention::kSparse) return;
  for (const char* option : {"--profile", "--paper", "--blocks"}) {
    if (command.count(option) == 0) continue;
    throw CLI::ValidationError(
        option, fmt::format("is not read with --attention {}; allowed: with --attention sparse or "
                            "--compare; name one of them, or leave it out",
                            attention_name(options.attention)));
  }
}

// Scripts may still have it.
void add_old_mode(CLI::App& command, AskOptions& options) {
  command
      .add_option_function<std::string>(
          "--mode",
          [&options](const std::string& mode) {
            options.whole = mode == "whole";
            print_err("--mode {}: every prompt is read in chunks now, of --ubatch tokens{}\n", mode,
                      options.whole ? "; whole is one of them" : "");
          })
      ->check(CLI::IsMember({"auto", "whole", "chunk"}))
      ->group("");
}

}  // namespace

const char* attention_name(Attention attention) {
  switch (attention) {
    case Attention::kStock:
      return "stock";
    case Attention::kDense:
      return "dense";
    case Attention::kSparse:
      return "sparse";
  }
  return "unknown";
}

void add_ask_options(CLI::App& command, AskOptions& options) {
  add_model_options(command, options.model);
  command.add_option("--file", options.files, "documents: UTF-8 text, - for standard input")
      ->required()
      ->type_name("DOC");
  command.add_option("QUESTION", options.question, "what to ask about the documents")
      ->type_name("");
  auto* attention = add_choice<Attention>(
      command, "--attention", options.attention,
      {{"stock", Attention::kStock}, {"dense", Attention::kDense}, {"sparse", Attention::kSparse}},
      "llama.cpp's own attention, ours, or ours with selection");
  command.add_flag("--compare", options.compare, "run stock, dense and sparse side by side")
      ->excludes(attention);
  auto* paper = command.add_flag(
      "--paper", options.paper,
      "the paper's selection: upper half of the layers, a set per head, tau 0.005, zero fill");
  add_old_mode(command, options);
  command
      .add_option("--profile", options.profile,
                  "layer profile: a file or a shipped name; default: the model's")
      ->type_name("FILE")
      ->excludes(paper);
  add_blocks_option(command, options.blocks);
  add_products_option(command, options.products,
                      "of dense and sparse attention; default: the profile's");
  command.add_option("--system", options.system, "system prompt; default: the model's")
      ->type_name("TEXT");
  command.add_option("--ctx", options.context, "context in tokens; default: what the prompt needs")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command
      .add_option("--ubatch", options.ubatch,
                  "tokens that are read at a time: more need more memory and select better; "
                  "default: 2048, beyond 64K tokens 4096, stock 512, --paper all")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command.add_option("--max-tokens", options.max_tokens, "longest answer in tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--temperature", options.temperature, "0: always the likeliest token")
      ->check(real_range(0, 10))
      ->type_name("T")
      ->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object and nothing else on stdout");
  command.add_flag("--verbose", options.verbose, "show llama.cpp's log");
  add_examples(command,
               "  tokensieve ask smollm2 --file report.md \"Who signed the contract?\"\n"
               "  tokensieve ask smollm2-128k --file a.txt b.txt --compare \"What is the code?\"\n"
               "  tokensieve ask model.gguf --attention stock --file notes.txt \"What is due?\"\n");
  command.parse_complete_callback([&command, &options] {
    settle_question(options);
    check_given(command, options);
  });
}

}  // namespace tokensieve::cli
