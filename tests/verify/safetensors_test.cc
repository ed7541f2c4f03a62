// The safetensors reader: what is well-formed loads, everything else is an error that says why.
#include "verify/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "support/case_data.h"
#include "support/golden_files.h"
#include "support/safetensors_writer.h"

namespace tokensieve::verify {
namespace {

using test::safetensors_bytes;
using testing::HasSubstr;

Result<SafeTensors> parse(const std::string& header, size_t data_bytes) {
  return SafeTensors::parse(safetensors_bytes(header, data_bytes), "some.safetensors");
}

TEST(SafeTensors, ReadsTensorsAndMetadata) {
  const Result<SafeTensors> file =
      parse(R"({"__metadata__":{"a":"1"},"y":{"dtype":"F32","shape":[],"data_offsets":[12,16]},)"
            R"("x":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
            R"("none":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]}}   )",
            16);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata().at("a"), "1");
  EXPECT_EQ(file->tensors().size(), 3u);
  const Result<const SafeTensor*> x = file->get("x", "BF16", 2);
  ASSERT_TRUE(x.ok());
  EXPECT_THAT((*x)->shape, testing::ElementsAre(2, 3));
  EXPECT_EQ((*x)->bytes.size(), 12u);
  EXPECT_THAT(file->get("z", "F32", 1).status().message(), HasSubstr("\"z\" is missing"));
  EXPECT_THAT(file->get("x", "F32", 2).status().message(), HasSubstr("allowed: F32"));
  EXPECT_FALSE(file->get("x", "BF16", 3).ok());
}

struct Bad {
  const char* name;
  const char* header;
  size_t data_bytes;
  const char* message;
};

class BadSafeTensors : public testing::TestWithParam<Bad> {};

TEST(SafeTensors, DeepNestingIsAnError) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& header : {deep, R"({"x":)" + deep + "}"}) {
    EXPECT_THAT(parse(header, 0).status().message(),
                HasSubstr("the header nests values more than 64 levels deep"));
  }
}

TEST_P(BadSafeTensors, IsAnErrorThatSaysWhy) {
  const Result<SafeTensors> file = parse(GetParam().header, GetParam().data_bytes);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), StatusCode::kDataError);
  EXPECT_THAT(file.status().message(), HasSubstr("some.safetensors: "));
  EXPECT_THAT(file.status().message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Files, BadSafeTensors,
    testing::Values(
        Bad{"no_json", "{", 0, "not valid JSON"}, Bad{"list", "[]", 0, "not a JSON object"},
        Bad{"number", "7", 0, "not a JSON object"},
        Bad{"not_utf8", "{\"\xff\":1}", 0, "not valid JSON"},
        Bad{"twice",
            R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
            R"("x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
            1, "\"x\" twice"},
        Bad{"entry_not_object", R"({"x":[]})", 0, "tensor \"x\": is not an object"},
        Bad{"no_dtype", R"({"x":{"shape":[1],"data_offsets":[0,1]}})", 1, "dtype is missing"},
        Bad{"extra_key", R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"z":0}})", 1,
            "unknown keys"},
        Bad{"dtype_object", R"({"x":{"dtype":{},"shape":[1],"data_offsets":[0,1]}})", 1,
            "dtype is not a string"},
        Bad{"unknown_dtype", R"({"x":{"dtype":"F31","shape":[1],"data_offsets":[0,1]}})", 1,
            "unknown dtype \"F31\""},
        Bad{"negative", R"({"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1,
            "integer >= 0"},
        Bad{"fraction", R"({"x":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1,
            "integer >= 0"},
        Bad{"too_large",
            R"({"x":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", 1,
            "integer >= 0"},
        Bad{"overflow",
            R"({"x":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
            "overflows"},
        Bad{"many_dimensions",
            R"({"x":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
            "at most 8"},
        Bad{"offsets_three", R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", 1,
            "is not [begin, end]"},
        Bad{"offsets_reversed", R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1,
            "leave the file's 1 data bytes"},
        Bad{"outside", R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 1,
            "leave the file's 1 data bytes"},
        Bad{"wrong_size", R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
            "its shape needs 8"},
        Bad{"overlap",
            R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
            R"("y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
            3, "overlap at byte 1"},
        Bad{"hole",
            R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
            R"("y":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
            3, "belong to no tensor"},
        Bad{"trailing", R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 5,
            "goes on for 4 bytes"},
        Bad{"metadata_number", R"({"__metadata__":{"a":1}})", 0, "__metadata__.a is not a string"},
        Bad{"metadata_list", R"({"__metadata__":[]})", 0, "__metadata__ is not an object"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(SafeTensors, ShortFilesAndFalseHeaderLengths) {
  for (size_t size = 0; size < 8; ++size) {
    EXPECT_FALSE(SafeTensors::parse(std::vector<std::byte>(size), "short").ok());
  }
  for (uint64_t claimed : {uint64_t{3}, uint64_t{1} << 30, ~uint64_t{0}, ~uint64_t{7}}) {
    const Result<SafeTensors> file =
        SafeTensors::parse(safetensors_bytes("{}", 0, claimed), "claim");
    EXPECT_THAT(file.status().message(), HasSubstr("not a safetensors file")) << claimed;
  }
}

TEST(SafeTensors, DeepNestingIsHarmless) {
  const std::string deep(1 << 20, '[');
  EXPECT_FALSE(parse(deep, 0).ok());
  EXPECT_FALSE(parse(R"({"x":)" + deep + std::string(1 << 20, ']') + "}", 0).ok());
}

TEST(SafeTensors, UnreadableFiles) {
  EXPECT_EQ(SafeTensors::load("/nonexistent/x.safetensors").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SafeTensors::load("/").status().code(), StatusCode::kNotFound);
}

// Truncated anywhere or with any byte of its header changed, a real file is refused or still
// well-formed, never a crash.
TEST(SafeTensors, DamagedHeaders) {
  const std::string header =
      R"({"__metadata__":{"window":"8"},"x":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}})";
  const std::vector<std::byte> file = safetensors_bytes(header, 12);
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(SafeTensors::parse({file.begin(), file.begin() + size}, "cut").ok()) << size;
  }
  test::Random random(3);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> damaged = file;
    for (int change = 0; change < 2; ++change) {
      damaged[random.below(8 + static_cast<int64_t>(header.size()))] =
          static_cast<std::byte>(random.next());
    }
    const Result<SafeTensors> parsed = SafeTensors::parse(damaged, "damaged");
    if (!parsed.ok()) continue;
    for (const auto& [name, tensor] : parsed->tensors()) EXPECT_EQ(tensor.bytes.size(), 12u);
  }
}

}  // namespace
}  // namespace tokensieve::verify
