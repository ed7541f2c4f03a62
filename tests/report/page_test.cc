// The page's data and that nothing in it can leave its place in the HTML.
#include "eval/report/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/runs.h"
#include "eval/report/page_data.h"
#include "eval/report/profile_text.h"

namespace tokensieve::eval::report {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kAttack = "</script><!--<script>alert('x' & \"y\")</script>";

TEST(Escape, Html) {
  EXPECT_EQ(escape_html("<b a='1'>\"&"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;");
  EXPECT_EQ(escape_html("Grüße"), "Grüße");
}

TEST(Escape, JsonInAScriptHoldsNoTagAndKeepsItsValue) {
  const Json data = {{"text", kAttack}, {"<key>", "–"}};
  const std::string safe = script_json(data);
  EXPECT_THAT(safe, Not(HasSubstr("<")));
  EXPECT_EQ(Json::parse(safe), data);
}

TEST(Page, HostileTextStaysText) {
  EvalRun run = parsed(std::string(kHeader) + result("qa", 1, 0, "dense", R"("score":1)"));
  run.model = kAttack;
  run.kept.push_back({"qa", 1, 0, "dense", {kAttack, "{{data}}"}, {}});
  const std::string page = render_page(kAttack, page_data({run}));
  EXPECT_THAT(page, Not(HasSubstr(kAttack)));
  EXPECT_THAT(page, HasSubstr("&lt;/script&gt;&lt;!--"));
  EXPECT_THAT(page, HasSubstr("\"{{data}}\""));  // put in, and not filled in again
  for (const char* name : {"{{title}}", "{{style}}", "{{chart}}", "{{script}}"}) {
    EXPECT_THAT(page, Not(HasSubstr(name)));
  }
  EXPECT_THAT(page, HasSubstr("The MIT License (MIT)"));
}

TEST(Page, NamesNothingOutsideItself) {
  const std::string page = render_page("t", page_data({parsed(kHeader)}));
  for (const char* outside : {"src=\"http", "src=\"//", "href=\"http", "@import", "url(http"}) {
    EXPECT_THAT(page, Not(HasSubstr(outside))) << outside;
  }
}

// Needles stand at the depths that occur, or in ten equal rows if these are many.
TEST(PageData, DepthRows) {
  const auto rows_of = [](int count) {
    std::string text = kHeader;
    for (int i = 0; i < count; ++i) {
      text +=
          result("qa", 8, i, "dense",
                 R"("score":1,"depth":)" + std::to_string(static_cast<double>(i) / (count - 1)));
    }
    return page_data({parsed(text)})["runs"][0]["needles"];
  };
  const Json few = rows_of(3);
  EXPECT_EQ(few["rows"], Json({"0 %", "50 %", "100 %"}));
  EXPECT_EQ(few["cells"].size(), 6u);  // each once as its task, once under "all"
  const Json many = rows_of(21);
  ASSERT_EQ(many["rows"].size(), 10u);
  EXPECT_EQ(many["rows"][9], "90–100 %");
  for (const Json& cell : many["cells"]) EXPECT_LE(cell["row"], 9);
}

TEST(PageData, MarksTasksThatDenseFails) {
  const Json data =
      page_data({parsed(std::string(kHeader) + result("qa", 8, 0, "dense", R"("score":1)") +
                        result("hard", 8, 0, "dense", R"("score":0)") +
                        result("hard", 8, 0, "sparse", R"("score":1)"))});
  const Json& tasks = data["runs"][0]["tasks"];
  ASSERT_EQ(tasks.size(), 2u);
  EXPECT_EQ(tasks[0]["counts"], true);
  EXPECT_EQ(tasks[1]["counts"], false);
  EXPECT_EQ(tasks[1]["scores"]["sparse"]["score"], 100);
}

TEST(PageData, OnePromptHoldsWhatEveryConfigurationKept) {
  EvalRun run = parsed(std::string(kHeader) +
                       result("qa", 2, 0, "sparse", R"("answer":"b","score":1,"expected":["b"])"));
  for (const char* config : {"sparse", "dense"}) {
    run.kept.push_back({{"qa", 2, 0, config}, {"a", "b"}, {{3, 1, {{{0, 0}, {1, 1}}}}}});
  }
  const Json prompts = page_data({run})["runs"][0]["prompts"];
  ASSERT_EQ(prompts.size(), 1u);
  ASSERT_EQ(prompts[0]["kept"].size(), 2u);
  EXPECT_EQ(prompts[0]["kept"][0]["layers"][0]["sets"], Json::parse("[[0,0,1,1]]"));
  EXPECT_EQ(prompts[0]["kept"][0]["answer"], "b");
  EXPECT_EQ(prompts[0]["expected"], Json({"b"}));
}

TEST(ProfileText, ABudgetAndAllElse) {
  Config config;
  config.name = "x";
  config.mode = "whole";
  config.profile = Json::parse(R"({"tokensieve_profile":1,"fingerprint":{},
      "sparse_layers":[2,3,4],"select":{"budget":"keep_ratio","keep_ratio":0.2,"fill":"local",
      "share":"layer"}})");
  const ProfileText text = describe(config);
  EXPECT_EQ(text.family, "layers 2-4, local fill 512 + 4, a set per layer, whole");
  config.profile["select"]["obs_window"] = 256;
  EXPECT_THAT(describe(config).family, HasSubstr(", obs_window 256, whole"));
  config.profile["select"].erase("obs_window");
  ASSERT_TRUE(text.budget.has_value());
  EXPECT_EQ(text.budget->name, "keep_ratio");
  EXPECT_EQ(text.budget->value, 0.2);
  config.gate = false;
  EXPECT_EQ(describe(config).family, text.family + ", always sparse");
  config.profile = Json();
  EXPECT_FALSE(describe(config).budget.has_value());
}

}  // namespace
}  // namespace tokensieve::eval::report
