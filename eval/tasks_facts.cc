// Tasks that hide facts in real text, and the text itself.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>

#include "eval/draft.h"

namespace tokensieve::eval {
namespace {

using fmt::format;
using Strings = std::vector<std::string>;

constexpr std::array<std::string_view, 24> kPeople = {
    "Marta Lindqvist", "Tomas Okafor",   "Priya Raman",      "Elena Petrova",   "Kenji Mori",
    "Lucia Ferrante",  "Samuel Adeyemi", "Ingrid Halvorsen", "Pablo Quiroga",   "Noor Haddad",
    "Viktor Szabo",    "Amara Diallo",   "Jonas Becker",     "Chiara Lombardi", "Ravi Menon",
    "Freya Nilsen",    "Mateo Vargas",   "Hana Kobayashi",   "Dmitri Volkov",   "Leila Farouk",
    "Oscar Lindgren",  "Zofia Nowak",    "Idris Kamara",     "Bianca Moretti"};

// What people do; each word is unlikely in any filler, and checked to be absent.
struct Relation {
  std::string_view verb;      // "<person> <verb> <value>."
  std::string_view question;  // {}: the person
  std::array<std::string_view, 12> values;
};
constexpr std::array<Relation, 4> kRelations = {{
    {"works as a",
     "What does {} work as?",
     {"beekeeper", "locksmith", "glassblower", "puppeteer", "cobbler", "florist", "stonemason",
      "welder", "juggler", "plumber", "dentist", "firefighter"}},
    {"plays the",
     "Which instrument does {} play?",
     {"cello", "oboe", "accordion", "banjo", "bassoon", "harmonica", "ukulele", "trombone",
      "mandolin", "xylophone", "saxophone", "clarinet"}},
    {"keeps a pet",
     "Which pet does {} keep?",
     {"ferret", "tortoise", "parrot", "hamster", "gecko", "chinchilla", "goldfish", "hedgehog",
      "cockatoo", "lizard", "rabbit", "canary"}},
    {"likes to eat",
     "What does {} like to eat?",
     {"lasagna", "paella", "sushi", "goulash", "ravioli", "falafel", "risotto", "pancakes",
      "gnocchi", "burritos", "noodles", "waffles"}},
}};

// Depths ascend evenly with a random place in each equal part, so that no two runs look alike.
uint32_t spread_depth(Random& random, size_t part, size_t parts) {
  return static_cast<uint32_t>(((static_cast<uint64_t>(part) << 32) + random.next32()) / parts);
}

// Steps of the golden ratio: any number of cases covers the depths evenly, whatever their filler.
uint32_t swept_depth(int32_t index) {
  return 0x80000000u + static_cast<uint32_t>(index) * 2654435769u;
}

// A number that stands nowhere else.
std::string draw_number(Setting& setting, std::set<std::string>& drawn) {
  constexpr uint32_t kFirst = 10000, kCount = 90000;
  std::string number;
  do {
    number = std::to_string(kFirst + setting.random.below(kCount));
  } while (setting.filler.text.find(number) != std::string::npos || !drawn.insert(number).second);
  return number;
}

Strings draw_numbers(Setting& setting, size_t count) {
  std::set<std::string> drawn;
  Strings numbers(count);
  for (std::string& number : numbers) number = draw_number(setting, drawn);
  return numbers;
}

// The setting outlives the draft.
Draft hide(const Setting& setting, std::vector<Fact> facts, std::string landmark) {
  std::stable_sort(facts.begin(), facts.end(),
                   [](const Fact& a, const Fact& b) { return a.depth < b.depth; });
  Draft draft;
  draft.document = [&filler = setting.filler, facts](size_t size) {
    return weave(filler, prefix_size(filler, size), facts);
  };
  draft.most_bytes = setting.filler.text.size();
  draft.landmark = std::move(landmark);
  return draft;
}

// Wordings that a small model follows: full names, which are long keys, and questions in the words
// of the facts. Of one-word keys ("the number for Oslo") SmolLM2-135M mixed up four in ten.
std::string phone_fact(std::string_view person, const std::string& number) {
  return format("The phone number of {} is {}.", person, number);
}

Question phone_question(std::string_view person, const std::string& number) {
  return {format("What is the phone number of {}?", person),
          format("The phone number of {} is", person),
          {number}};
}

struct PersonFact {
  std::string sentence;
  Question question;
};

// One fact a person, each of the next relation.
std::vector<PersonFact> person_facts(Setting& setting, std::span<const std::string_view> people,
                                     size_t first_relation) {
  std::set<std::string_view> used;
  std::vector<PersonFact> facts;
  for (size_t i = 0; i < people.size(); ++i) {
    const Relation& relation = kRelations[(first_relation + i) % kRelations.size()];
    const auto values = setting.random.sample(relation.values, relation.values.size());
    const auto value = std::find_if(values.begin(), values.end(), [&](std::string_view word) {
      return !used.contains(word) && setting.filler.text.find(word) == std::string::npos;
    });
    used.insert(*value);  // the table is long enough: tested for every kind of filler
    const std::string start = format("{} {}", people[i], relation.verb);
    facts.push_back(
        {format("{} {}.", start, *value),
         {format(fmt::runtime(relation.question), people[i]), start, {std::string(*value)}}});
  }
  return facts;
}

std::string variable_name(Random& random, std::set<std::string>& drawn) {
  std::string name;
  do {
    name.clear();
    for (int i = 0; i < 5; ++i) name += static_cast<char>('A' + random.below(26));
  } while (!drawn.insert(name).second);
  return name;
}

}  // namespace

// One phone number at a swept depth; the follow-ups are about other people's work and hobbies.
Draft single_needle(Setting& setting) {
  constexpr size_t kOthers = 3;
  const auto people = setting.random.sample(kPeople, 1 + kOthers);
  const std::string number = draw_numbers(setting, 1)[0];
  std::vector<Fact> facts = {{swept_depth(setting.index), phone_fact(people[0], number)}};
  const auto others = person_facts(setting, std::span(people).subspan(1), 0);
  for (size_t i = 0; i < kOthers; ++i) {
    facts.push_back({spread_depth(setting.random, i, kOthers), others[i].sentence});
  }
  Draft draft = hide(setting, std::move(facts), phone_fact(people[0], number));
  draft.question = phone_question(people[0], number);
  for (const PersonFact& other : others) draft.follow_ups.push_back(other.question);
  return draft;
}

// The phone numbers of four people; one is asked, the others are asked later.
Draft multi_key(Setting& setting) {
  constexpr size_t kKeys = 4;
  const auto people = setting.random.sample(kPeople, kKeys);
  const Strings numbers = draw_numbers(setting, kKeys);
  std::vector<Fact> facts = {{swept_depth(setting.index), phone_fact(people[0], numbers[0])}};
  for (size_t i = 1; i < kKeys; ++i) {
    facts.push_back(
        {spread_depth(setting.random, i - 1, kKeys - 1), phone_fact(people[i], numbers[i])});
  }
  Draft draft = hide(setting, std::move(facts), phone_fact(people[0], numbers[0]));
  draft.question = phone_question(people[0], numbers[0]);
  for (size_t i = 1; i < kKeys; ++i) {
    draft.follow_ups.push_back(phone_question(people[i], numbers[i]));
  }
  return draft;
}

// Three numbers of one person, all asked; the numbers of two others are asked later.
Draft multi_value(Setting& setting) {
  constexpr size_t kValues = 3, kOthers = 2, kFacts = kValues + kOthers;
  const auto people = setting.random.sample(kPeople, 1 + kOthers);
  const Strings numbers = draw_numbers(setting, kFacts);
  Strings sentences;
  for (size_t i = 0; i < kValues; ++i) {
    sentences.push_back(format("One of the phone numbers of {} is {}.", people[0], numbers[i]));
  }
  for (size_t i = 0; i < kOthers; ++i) {
    sentences.push_back(phone_fact(people[1 + i], numbers[kValues + i]));
  }
  std::vector<size_t> order = {0, 1, 2, 3, 4};
  setting.random.shuffle(order);
  std::vector<Fact> facts;
  for (size_t i = 0; i < kFacts; ++i) {
    facts.push_back({spread_depth(setting.random, i, kFacts), sentences[order[i]]});
  }
  const size_t first =
      *std::find_if(order.begin(), order.end(), [](size_t i) { return i < kValues; });
  Draft draft = hide(setting, std::move(facts), sentences[first]);
  draft.question = {format("What are all the phone numbers of {}?", people[0]),
                    format("The phone numbers of {} are", people[0]),
                    {numbers.begin(), numbers.begin() + kValues}};
  for (size_t i = 0; i < kOthers; ++i) {
    draft.follow_ups.push_back(phone_question(people[1 + i], numbers[kValues + i]));
  }
  return draft;
}

// The numbers of two of four people are asked in one question, the other two later.
Draft multi_query(Setting& setting) {
  constexpr size_t kAsked = 2, kKeys = 4;
  const auto people = setting.random.sample(kPeople, kKeys);
  const Strings numbers = draw_numbers(setting, kKeys);
  std::vector<size_t> order = {0, 1, 2, 3};
  setting.random.shuffle(order);
  std::vector<Fact> facts;
  for (size_t i = 0; i < kKeys; ++i) {
    facts.push_back(
        {spread_depth(setting.random, i, kKeys), phone_fact(people[order[i]], numbers[order[i]])});
  }
  const size_t first =
      *std::find_if(order.begin(), order.end(), [](size_t i) { return i < kAsked; });
  Draft draft = hide(setting, std::move(facts), phone_fact(people[first], numbers[first]));
  draft.question = {format("What are the phone numbers of {} and {}?", people[0], people[1]),
                    format("The phone number of {} is", people[0]),
                    {numbers.begin(), numbers.begin() + kAsked}};
  for (size_t i = kAsked; i < kKeys; ++i) {
    draft.follow_ups.push_back(phone_question(people[i], numbers[i]));
  }
  return draft;
}

// One chain of copies, as in RULER, in words: SmolLM2-135M follows them in prose, but not
// "VAR B = VAR A". All variables are asked, two people later.
Draft variable_tracking(Setting& setting) {
  constexpr size_t kVariables = 4, kOthers = 2;
  const std::string value = draw_numbers(setting, 1)[0];
  std::set<std::string> drawn;
  Strings names;
  std::vector<Fact> facts;
  for (size_t i = 0; i < kVariables; ++i) {
    const std::string source = i == 0 ? value : "of " + names.back();
    names.push_back(variable_name(setting.random, drawn));
    facts.push_back({spread_depth(setting.random, i, kVariables),
                     format("The value {} is copied to {}.", source, names.back())});
  }
  const std::string landmark = facts[0].sentence;
  const auto people = setting.random.sample(kPeople, kOthers);
  const auto others = person_facts(setting, people, setting.random.below(kRelations.size()));
  for (size_t i = 0; i < kOthers; ++i) {
    facts.push_back({spread_depth(setting.random, i, kOthers), others[i].sentence});
  }
  Draft draft = hide(setting, std::move(facts), landmark);
  draft.question = {format("Find all variables that hold the value {}.", value),
                    format("The value {} is copied to", value), names};
  for (const PersonFact& other : others) draft.follow_ups.push_back(other.question);
  return draft;
}

// Facts about eight people, two of each sort; one is asked at a swept depth, three later.
Draft qa(Setting& setting) {
  constexpr size_t kPeopleInText = 8, kFollowUps = 3;
  const auto names = setting.random.sample(kPeople, kPeopleInText);
  const auto people = person_facts(setting, names, setting.random.below(kRelations.size()));
  std::vector<Fact> facts = {{swept_depth(setting.index), people[0].sentence}};
  Strings others;
  for (size_t i = 1; i < kPeopleInText; ++i) others.push_back(people[i].sentence);
  setting.random.shuffle(others);
  for (size_t i = 0; i < others.size(); ++i) {
    facts.push_back({spread_depth(setting.random, i, others.size()), others[i]});
  }
  Draft draft = hide(setting, std::move(facts), people[0].sentence);
  draft.question = people[0].question;
  for (size_t i = 1; i <= kFollowUps; ++i) draft.follow_ups.push_back(people[i].question);
  return draft;
}

// The bare filler. What follows it must not be what it began with.
Draft text(Setting& setting) {
  Draft draft = hide(setting, {}, "");
  draft.most_bytes -= kContinuationBytes;
  return draft;
}

}  // namespace tokensieve::eval
