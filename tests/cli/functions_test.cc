// The CLI's functions that need neither a terminal nor llama.cpp.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/files.h"
#include "common/models.h"
#include "common/profiles.h"
#include "common/system.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/tokensieve-cli-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return (path_ / name).string();
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

TEST(Terminal, FormatsNumbers) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(7512), "7,512");
  EXPECT_EQ(format_count(-1234567), "-1,234,567");
  EXPECT_EQ(format_duration(850), "850 ms");
  EXPECT_EQ(format_duration(12'340), "12.3 s");
  EXPECT_EQ(format_duration(125'000), "2 min 05 s");
  EXPECT_EQ(format_bytes(570.0 * 1024 * 1024), "570 MiB");
}

TEST(Terminal, BarIsAlwaysAsWideAsAsked) {
  for (const double fraction : {-1.0, 0.0, 0.01, 0.33, 0.5, 0.999, 1.0, 7.0}) {
    EXPECT_EQ(display_width(bar(fraction, 12)), 12u) << fraction;
  }
  EXPECT_EQ(bar(0.5, 4), "██  ");
  EXPECT_EQ(bar(0.125, 1), "▏");
}

TEST(Terminal, ProgressOfAPartIsAShareOfTheWhole) {
  double seen = -1;
  const OnProgress whole = [&](double fraction) { seen = fraction; };
  const OnProgress last_quarter_of_half = part_of(part_of(whole, 1, 2), 3, 4);
  last_quarter_of_half(0);
  EXPECT_DOUBLE_EQ(seen, 0.875);
  last_quarter_of_half(1);
  EXPECT_DOUBLE_EQ(seen, 1);
  EXPECT_FALSE(part_of(nullptr, 0, 2)) << "nobody to tell";
}

TEST(Terminal, WrapKeepsEveryWord) {
  EXPECT_EQ(wrap("the code is 42", 8), (std::vector<std::string>{"the code", "is 42"}));
  EXPECT_EQ(wrap("a\n\nb", 8), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(wrap("unbreakable", 4), std::vector<std::string>{"unbreakable"});
}

TEST(Terminal, TableAlignsColumnsOfUtf8AndSeveralLines) {
  Table table;
  table.add_row({"é", "x\ny"});
  table.add_row({"abc", "z"});
  EXPECT_EQ(table.render(), "é    x\n     y\nabc  z\n");
}

TEST(Files, FindsTheFirstByteThatIsNotUtf8) {
  EXPECT_EQ(first_invalid_utf8("plain, é, 漢, 😀"), std::string_view::npos);
  EXPECT_EQ(first_invalid_utf8(std::string_view("a\0b", 3)), 1u);
  EXPECT_EQ(first_invalid_utf8("ab\xC3"), 2u);            // cut sequence
  EXPECT_EQ(first_invalid_utf8("\xC0\xAF"), 0u);          // overlong
  EXPECT_EQ(first_invalid_utf8("\xED\xA0\x80"), 0u);      // surrogate
  EXPECT_EQ(first_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // above U+10FFFF
}

TEST(Files, ReadsTextAndNamesWhatIsWrong) {
  const Folder folder;
  EXPECT_EQ(*read_text(folder.file("a.txt", "hello")), "hello");
  EXPECT_EQ(read_text((folder.path() / "none").string()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(read_text(folder.path().string()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(read_text(folder.file("empty", "")).status().code(), StatusCode::kDataError);
  const Result<std::string> binary = read_text(folder.file("b.bin", "ab\xFF"));
  EXPECT_EQ(binary.status().code(), StatusCode::kDataError);
  EXPECT_NE(std::string(binary.status().message()).find("offset 2"), std::string::npos);
}

TEST(Files, WritesAllOrNothing) {
  const Folder folder;
  const std::string path = folder.file("out.json", "old");
  ASSERT_TRUE(write_atomically(path, "new").ok());
  EXPECT_EQ(*read_text(path), "new");
  fs::create_directory(folder.path() / "taken");
  EXPECT_FALSE(write_atomically((folder.path() / "taken").string(), "x").ok());
  EXPECT_FALSE(write_atomically((folder.path() / "no" / "such").string(), "x").ok());
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

TEST(Files, AByteOrderMarkIsNoText) {
  const Folder folder;
  EXPECT_EQ(*read_text(folder.file("a.txt", "\xEF\xBB\xBFhello")), "hello");
  EXPECT_EQ(*read_text(folder.file("b.txt", "a\xEF\xBB\xBF")), "a\xEF\xBB\xBF");
  EXPECT_EQ(read_text(folder.file("c.txt", "\xEF\xBB\xBF")).status().code(),
            StatusCode::kDataError);
}

TEST(Files, DevicesAndLinksStayWhatTheyAre) {
  const Folder folder;
  const std::string path = folder.file("out.json", "old");
  const fs::path link = folder.path() / "link";
  fs::create_symlink("out.json", link);
  ASSERT_TRUE(write_atomically(link.string(), "new").ok());
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(*read_text(path), "new");
  EXPECT_TRUE(write_atomically("/dev/null", "x").ok());
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_FALSE(write_atomically("/dev/full", "x").ok());
}

TEST(Files, WhetherAPathCanBeWrittenIsKnownBefore) {
  const Folder folder;
  const std::string path = folder.file("out.json", "old");
  EXPECT_TRUE(check_writable(path).ok());
  EXPECT_TRUE(check_writable((folder.path() / "new").string()).ok());
  EXPECT_TRUE(check_writable("/dev/null").ok());
  for (const std::string& bad : {folder.path().string(), (folder.path() / "no/such").string(),
                                 path + "/below"}) {
    const Status status = check_writable(bad);
    EXPECT_FALSE(status.ok()) << bad;
    EXPECT_NE(std::string(status.message()).find("cannot write " + bad), std::string::npos);
  }
  EXPECT_EQ(*read_text(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST(Models, ShortNamesAreFilesOfTheSetUp) {
  const Folder folder;
  fs::create_directories(folder.path() / "models");
  const std::string plain = folder.file("models/SmolLM2-135M-Instruct.F16.gguf", "GGUF....");
  const std::string longer = folder.file("models/SmolLM2-135M-128K.F16.gguf", "GGUF....");
  setenv("TOKENSIEVE_CACHE", folder.path().c_str(), 1);
  for (const auto& [name, file] : {std::pair("smollm2", plain), {"smollm2-128k", longer}}) {
    const Result<ResolvedModel> model = resolve_model({.model = name, .rope_scale = 4});
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_EQ(model->gguf, file);
    EXPECT_TRUE(model->is_short_name);
    EXPECT_NE(model->system_prompt, "");
    EXPECT_EQ(model->options.lora, "");
    EXPECT_EQ(model->options.rope_scale, 4);
  }
}

TEST(Models, ErrorsNameTheFix) {
  const Folder folder;
  setenv("TOKENSIEVE_CACHE", folder.path().c_str(), 1);
  const Result<ResolvedModel> unknown = resolve_model({.model = "smolm"});
  EXPECT_EQ(unknown.status().code(), StatusCode::kNotFound);
  EXPECT_NE(std::string(unknown.status().message()).find("smollm2-128k"), std::string::npos);
  const Result<ResolvedModel> not_fetched = resolve_model({.model = "smollm2"});
  EXPECT_NE(std::string(not_fetched.status().message()).find("make setup"), std::string::npos);
  EXPECT_EQ(resolve_model({.model = folder.file("x.gguf", "PK..")}).status().code(),
            StatusCode::kDataError);
}

// What is free where the process may map `bytes` at most; -1: no such limit can be set.
int64_t free_memory_within(rlim_t bytes) {
  rlimit before = {};
  if (getrlimit(RLIMIT_AS, &before) != 0) return -1;
  rlimit limit = before;
  limit.rlim_cur = bytes;
  if (setrlimit(RLIMIT_AS, &limit) != 0) return -1;
  const int64_t free = available_memory_bytes();
  return setrlimit(RLIMIT_AS, &before) == 0 ? free : -1;
}

TEST(System, FreeMemoryKnowsTheLimitOfTheProcess) {
  constexpr int64_t kMiB = 1 << 20;
  EXPECT_GT(available_memory_bytes(), 64 * kMiB);
  EXPECT_EQ(free_memory_within(kMiB), 0);  // less than is mapped already: nothing can be allocated

  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  file >> pages;
  const int64_t mapped = pages * sysconf(_SC_PAGESIZE);
  const int64_t free = free_memory_within(static_cast<rlim_t>(mapped + 64 * kMiB));
  EXPECT_LE(free, 64 * kMiB);
  EXPECT_GE(free, 32 * kMiB);  // what the test itself may have mapped since
}

TEST(Profiles, LayersRoundTrip) {
  EXPECT_EQ(*parse_layers("2-4,7", 30), (std::vector<int32_t>{2, 3, 4, 7}));
  EXPECT_EQ(format_layers({2, 3, 4, 7}), "2-4,7");
  EXPECT_EQ(format_layers({}), "none");
  for (const char* bad : {"", "0-3", "5-2", "2-30", "a", "2,", "2-", "2 3", "99999999999"}) {
    EXPECT_FALSE(parse_layers(bad, 30).ok()) << bad;
  }
}

TEST(Profiles, ShippedOnesLoadAndFitTheirModels) {
  setenv("TOKENSIEVE_SHARE", TOKENSIEVE_SOURCE_DIR, 1);
  const ModelFingerprint smollm2{"llama", 30, 9, 3, 64}, llama{"llama", 32, 32, 8, 128};
  EXPECT_GE(shipped_profiles().size(), 4u);
  for (const char* name : {"smollm2", "smollm2-128k"}) {
    const Result<ChosenProfile> chosen = choose_profile("", name, smollm2);
    ASSERT_TRUE(chosen.ok()) << chosen.status().message();
    EXPECT_EQ(fs::path(chosen->source).stem(), name);
    EXPECT_EQ(chosen->profile.select.fill, Fill::kLocal);
  }
  const Result<ChosenProfile> by_shape = choose_profile("", "some-file", llama);
  ASSERT_TRUE(by_shape.ok());
  EXPECT_EQ(fs::path(by_shape->source).stem(), "llama-3.1-8b");
  EXPECT_EQ(by_shape->profile.sparse_layers.front(), 15);
  EXPECT_FALSE(choose_profile("llama-3.1-8b", "smollm2", smollm2).ok());
}

TEST(Profiles, UnknownModelsGetTheUpperHalf) {
  const Result<ChosenProfile> chosen = choose_profile("", "m", {"llama", 12, 4, 4, 32});
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(chosen->profile.sparse_layers, (std::vector<int32_t>{6, 7, 8, 9, 10, 11}));
}

}  // namespace
}  // namespace tokensieve::cli
