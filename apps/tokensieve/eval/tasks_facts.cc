// Tasks that hide facts in real text, and the text itself.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "eval/draft.h"

namespace tokensieve::cli::eval {
namespace {

using fmt::format;
using Strings = std::vector<std::string>;

constexpr std::array<std::string_view, 40> kCities = {
    "Oslo",     "Lima",    "Cairo",    "Quito",   "Hanoi",     "Turin",    "Perth",   "Dakar",
    "Kyoto",    "Bergen",  "Havana",   "Tunis",   "Bogota",    "Nairobi",  "Osaka",   "Porto",
    "Seville",  "Leipzig", "Krakow",   "Tampere", "Utrecht",   "Zagreb",   "Manila",  "Jakarta",
    "Tashkent", "Riga",    "Vilnius",  "Lagos",   "Accra",     "Santiago", "Denver",  "Boston",
    "Toronto",  "Calgary", "Brisbane", "Naples",  "Marseille", "Gdansk",   "Antwerp", "Bilbao"};

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

std::string number_fact(std::string_view key, const std::string& number) {
  return format("The special magic number for {} is {}.", key, number);
}

Question number_question(std::string_view key, const std::string& number) {
  return {format("What is the special magic number for {}?", key),
          format("The special magic number for {} is", key),
          {number}};
}

Question numbers_question(const std::string& keys, Strings numbers) {
  return {format("What are all the special magic numbers for {}?", keys),
          format("The special magic numbers for {} are", keys), std::move(numbers)};
}

struct PersonFact {
  std::string sentence;
  Question question;
};

// One fact a person, each of the next relation.
std::vector<PersonFact> person_facts(Setting& setting, size_t count, size_t first_relation) {
  const auto people = setting.random.sample(kPeople, count);
  std::set<std::string_view> used;
  std::vector<PersonFact> facts;
  for (size_t i = 0; i < count; ++i) {
    const Relation& relation = kRelations[(first_relation + i) % kRelations.size()];
    auto values = setting.random.sample(relation.values, relation.values.size());
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

// One number at a swept depth; the follow-ups are about people.
Draft single_needle(Setting& setting) {
  constexpr size_t kOthers = 3;
  const std::string_view key = kCities[setting.random.below(kCities.size())];
  const std::string number = draw_numbers(setting, 1)[0];
  std::vector<Fact> facts = {{swept_depth(setting.index), number_fact(key, number)}};
  const auto others = person_facts(setting, kOthers, 0);
  for (size_t i = 0; i < kOthers; ++i) {
    facts.push_back({spread_depth(setting.random, i, kOthers), others[i].sentence});
  }
  Draft draft = hide(setting, std::move(facts), number_fact(key, number));
  draft.question = number_question(key, number);
  for (const PersonFact& other : others) draft.follow_ups.push_back(other.question);
  return draft;
}

// The numbers of four cities; one is asked, the others are asked later.
Draft multi_key(Setting& setting) {
  constexpr size_t kKeys = 4;
  const auto keys = setting.random.sample(kCities, kKeys);
  const Strings numbers = draw_numbers(setting, kKeys);
  std::vector<Fact> facts = {{swept_depth(setting.index), number_fact(keys[0], numbers[0])}};
  for (size_t i = 1; i < kKeys; ++i) {
    facts.push_back(
        {spread_depth(setting.random, i - 1, kKeys - 1), number_fact(keys[i], numbers[i])});
  }
  Draft draft = hide(setting, std::move(facts), number_fact(keys[0], numbers[0]));
  draft.question = number_question(keys[0], numbers[0]);
  for (size_t i = 1; i < kKeys; ++i) {
    draft.follow_ups.push_back(number_question(keys[i], numbers[i]));
  }
  return draft;
}

// Several numbers of one city, all asked; two other cities are asked later.
Draft multi_value(Setting& setting) {
  constexpr size_t kValues = 3, kOthers = 2, kFacts = kValues + kOthers;
  const auto keys = setting.random.sample(kCities, 1 + kOthers);
  const Strings numbers = draw_numbers(setting, kFacts);
  Strings sentences;
  for (size_t i = 0; i < kFacts; ++i) {
    sentences.push_back(number_fact(keys[i < kValues ? 0 : i - kValues + 1], numbers[i]));
  }
  Strings shuffled = sentences;
  setting.random.shuffle(shuffled);
  std::vector<Fact> facts;
  for (size_t i = 0; i < kFacts; ++i) {
    facts.push_back({spread_depth(setting.random, i, kFacts), shuffled[i]});
  }
  const auto first = std::find_if(shuffled.begin(), shuffled.end(), [&](const std::string& fact) {
    return std::find(sentences.begin(), sentences.begin() + kValues, fact) !=
           sentences.begin() + kValues;
  });
  Draft draft = hide(setting, std::move(facts), *first);
  draft.question =
      numbers_question(std::string(keys[0]), {numbers.begin(), numbers.begin() + kValues});
  for (size_t i = 0; i < kOthers; ++i) {
    draft.follow_ups.push_back(number_question(keys[i + 1], numbers[kValues + i]));
  }
  return draft;
}

// Two of four cities are asked in one question, the other two later.
Draft multi_query(Setting& setting) {
  constexpr size_t kAsked = 2, kKeys = 4;
  const auto keys = setting.random.sample(kCities, kKeys);
  const Strings numbers = draw_numbers(setting, kKeys);
  std::vector<size_t> order = {0, 1, 2, 3};
  setting.random.shuffle(order);
  std::vector<Fact> facts;
  for (size_t i = 0; i < kKeys; ++i) {
    facts.push_back(
        {spread_depth(setting.random, i, kKeys), number_fact(keys[order[i]], numbers[order[i]])});
  }
  const size_t first =
      *std::find_if(order.begin(), order.end(), [](size_t i) { return i < kAsked; });
  Draft draft = hide(setting, std::move(facts), number_fact(keys[first], numbers[first]));
  draft.question = numbers_question(format("{} and {}", keys[0], keys[1]),
                                    {numbers.begin(), numbers.begin() + kAsked});
  for (size_t i = kAsked; i < kKeys; ++i) {
    draft.follow_ups.push_back(number_question(keys[i], numbers[i]));
  }
  return draft;
}

// Three chains VAR A = 12345, VAR B = VAR A, ...: every variable of one chain is asked, the other
// chains later.
Draft variable_tracking(Setting& setting) {
  constexpr size_t kChains = 3, kVariables = 4;
  const Strings values = draw_numbers(setting, kChains);
  std::set<std::string> drawn;
  Draft questions;
  std::vector<Fact> facts;
  std::string landmark;
  for (size_t chain = 0; chain < kChains; ++chain) {
    Strings names(kVariables);
    for (std::string& name : names) name = variable_name(setting.random, drawn);
    for (size_t i = 0; i < kVariables; ++i) {
      const std::string source = i == 0 ? values[chain] : "VAR " + names[i - 1];
      facts.push_back(
          {spread_depth(setting.random, i, kVariables), format("VAR {} = {}.", names[i], source)});
      if (chain == 0 && i == 0) landmark = facts.back().sentence;
    }
    Question question{
        format("Find all variables that are assigned the value {} in the text above.",
               values[chain]),
        format("According to the chains of variable assignment in the text above, {} variables are "
               "assigned the value {}, they are:",
               kVariables, values[chain]),
        names};
    if (chain == 0) {
      questions.question = std::move(question);
    } else {
      questions.follow_ups.push_back(std::move(question));
    }
  }
  Draft draft = hide(setting, std::move(facts), std::move(landmark));
  draft.question = std::move(questions.question);
  draft.follow_ups = std::move(questions.follow_ups);
  return draft;
}

// Facts about eight people, two of each sort; one is asked at a swept depth, three later.
Draft qa(Setting& setting) {
  constexpr size_t kPeopleInText = 8, kFollowUps = 3;
  const auto people = person_facts(setting, kPeopleInText, setting.random.below(kRelations.size()));
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

}  // namespace tokensieve::cli::eval
