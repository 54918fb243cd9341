"""Writes the packaged instruction records: 320 short tasks of eleven regular forms.

  python make_instructions.py > ../instructions.jsonl

Facts of common knowledge and words of everyday English, put together here and free for any use. Answers are a few bytes
long and follow from their form, so that a model of a few million parameters over bytes shows within minutes whether it
learns them. The same script always writes the same file. Needs Python alone.
"""
import json, random

CAPITALS = """Argentina:Buenos Aires Austria:Vienna Belgium:Brussels Bulgaria:Sofia Canada:Ottawa Chile:Santiago
China:Beijing Croatia:Zagreb Cuba:Havana Denmark:Copenhagen Egypt:Cairo Finland:Helsinki France:Paris Germany:Berlin
Ghana:Accra Greece:Athens Hungary:Budapest Iceland:Reykjavik India:New Delhi Iran:Tehran Iraq:Baghdad Ireland:Dublin
Italy:Rome Japan:Tokyo Kenya:Nairobi Latvia:Riga Lebanon:Beirut Libya:Tripoli Mali:Bamako Morocco:Rabat Nepal:Kathmandu
Norway:Oslo Peru:Lima Poland:Warsaw Portugal:Lisbon Romania:Bucharest Spain:Madrid Sweden:Stockholm Turkey:Ankara
Uruguay:Montevideo"""
PLURALS = """apple:apples baby:babies bench:benches bird:birds book:books box:boxes boy:boys brush:brushes bus:buses
cherry:cherries child:children church:churches city:cities dish:dishes fox:foxes foot:feet glass:glasses goose:geese
house:houses key:keys lady:ladies leaf:leaves letter:letters man:men mouse:mice story:stories tooth:teeth tree:trees
wolf:wolves woman:women"""
OPPOSITES = """hot:cold big:small up:down left:right day:night open:closed early:late fast:slow light:dark old:young
rich:poor happy:sad hard:soft long:short full:empty high:low wet:dry good:bad near:far first:last"""
RHYMES = """light:night house:mouse tree:bee cat:hat rain:train star:car book:cook ring:king snow:blow ball:wall
day:way moon:spoon bell:well cake:lake boat:coat fish:dish hill:mill sand:hand nose:rose green:queen sky:fly bread:red
chair:bear clock:rock dog:frog door:floor goat:note sun:run tail:snail wine:line"""
WORDS = """garden window bridge yellow summer winter kettle basket candle silver orange planet ticket pencil rabbit
market dinner mother father sister flower button castle forest island letter minute number people river school street
table valley water wonder travel simple little gentle""".split()
VERBS = """walk:walked talk:talked open:opened play:played call:called wait:waited help:helped look:looked ask:asked
cook:cooked climb:climbed paint:painted jump:jumped clean:cleaned answer:answered write:wrote sing:sang run:ran
speak:spoke drink:drank see:saw come:came give:gave take:took find:found"""
DEFINITIONS = """baker|a person who bakes bread
barn|a house for hay and animals
bee|an insect that makes honey
calf|a young cow
century|a hundred years
clock|a thing that shows the time
doctor|a person who heals the sick
dozen|twelve of a thing
farmer|a person who works a farm
foal|a young horse
island|land with water around it
kitchen|a room to cook in
kitten|a young cat
lake|water with land around it
library|a house for books
orchard|a garden of fruit trees
pilot|a person who flies planes
puppy|a young dog
river|water that flows to the sea
sailor|a person who works on ships
school|a house to learn in
tailor|a person who makes clothes
teacher|a person who teaches
triangle|a shape with three sides
week|seven days"""
UNITS = [("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000), ("hours", "minutes", 60), ("weeks", "days", 7)]


def pairs(text):
    """(key, value) of "key:value key:value …"; a value may hold spaces."""
    out = []
    for word in text.split():
        if ":" in word:
            out.append(word.split(":"))
        else:
            out[-1][1] += " " + word
    return out


def choose(draw, count):
    """That many different results of draw()."""
    out = {}
    while len(out) < count:
        key, value = draw()
        out.setdefault(key, value)
    return list(out.items())


def sums(rng):
    def draw():
        a, b = rng.randint(2, 30), rng.randint(2, 30)
        if rng.random() < 0.5:
            return f"{a} + {b}", str(a + b)
        return f"{max(a, b)} - {min(a, b)}", str(abs(a - b))
    return choose(draw, 40)


def conversions(rng):
    def draw():
        unit, smaller, factor = rng.choice(UNITS)
        count = rng.randint(2, 9)
        return f"{count} {unit} in {smaller}", f"{count * factor} {smaller}"
    return choose(draw, 30)


def sorted_words(rng):
    def draw():
        words = rng.sample(WORDS, 3)
        return " ".join(words), " ".join(sorted(words))
    return choose(draw, 30)


def capitals_of(rng):
    def draw():
        text = " ".join(rng.sample(WORDS, 2))
        return text, text.upper()
    return choose(draw, 20)


def records():
    rng = random.Random(1811)
    past = [(f"They {now} today.", f"They {then} yesterday.") for now, then in pairs(VERBS)]
    by_instruction = [
        ("Work out.", sums(rng)),
        ("Convert.", conversions(rng)),
        ("Sort the words.", sorted_words(rng)),
        ("Write in capital letters.", capitals_of(rng)),
        ("Spell the word.", [(word, "-".join(word)) for word in rng.sample(WORDS, 30)]),
        ("Write the plural.", pairs(PLURALS)),
        ("Name the opposite.", pairs(OPPOSITES)),
        ("Name a word that rhymes.", pairs(RHYMES)),
        ("Rewrite for yesterday.", past),
        ("Say what it is.", [line.split("|") for line in DEFINITIONS.splitlines()]),
    ]
    out = [dict(instruction=i, input=a, output=b) for i, tasks in by_instruction for a, b in tasks]
    for land, city in pairs(CAPITALS):
        out.append(dict(instruction=f"What is the capital of {land}?", input="", output=city))
    rng.shuffle(out)
    return out


if __name__ == "__main__":
    for record in records():
        print(json.dumps(record))
