"""The words of toyland. Order is frequency: pools weigh their words by Zipf's law unless they say otherwise."""

import random

from llmkit.data.toyland.words import Pool


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.replace("\n", " ").split(",") if word.strip()]


GIRLS = _words("""Anna, Mia, Lina, Sophie, Clara, Emma, Nora, Ida, Rosa, Julia, Maya, Ella, Zoe, Lucy, Alice, Greta, Hanna,
Eva, Ruby, Olivia, Nina, Lena, Marta, Paula, Dora, Flora, Stella, Vera, Iris, Helen, Agnes, Olga, Tilda, Wanda, Yara,
Amelia, Beth, Carmen, Diana, Edith, Frida, Gloria, Hazel, Irma, Joan, Kira, Laura, Mona, Petra, Queenie""")
BOYS = _words("""Tom, Ben, Max, Leo, Sam, Paul, Oscar, Felix, Noah, Jack, Hugo, Adam, Emil, Karl, Otto, Finn, Jonas, Henry,
Peter, Simon, David, Daniel, Robin, Anton, Bruno, Caspar, Dennis, Erik, Frank, George, Harold, Ivan, Jacob, Kurt, Lars,
Martin, Nathan, Oliver, Philip, Quentin, Ralph, Stefan, Theo, Ulrich, Victor, Walter, Xavier, Yannick, Zachary, Albert""")
TOWNS = _words(
    """Oakford, Millbridge, Ashby, Kelmoor, Westhaven, Dunwick, Rosefield, Harrowgate, Silverton, Lakeside"""
)

_ONSETS = "b br c d dr f fl g gr h j k l m n p pr r s st t tr v w z".split()
_VOWELS = "a e i o u ai ea ia o u a e".split()
_CODAS = "l m n r s t d k nd rt ll".split()
_ENDS = {"girl": "a ia ine elle ette ina essa ora".split(), "boy": "o us an en ik or eth ard".split()}
_TOWN_FRONT = (
    "Ald Birch Black Bram Cold Crow Dal East Elm Fern Fox Glen Gold Green Hart High Iron Kings Long Marsh Moor".split()
)
_TOWN_FRONT += (
    "New North Old Pine Raven Red Rook Salt Sand Stone Storm Swan Thorn Upper Wester White Wind Winter Wolf".split()
)
_TOWN_BACK = (
    "bridge brook bury cliff combe dale den field fold ford gate ham haven hill holt hurst land ley mere mouth".split()
)
_TOWN_BACK += "pool port ridge sea shaw side stead stow ton vale view wall water well wick wood worth".split()


def _made_up(n: int, kind: str, seed: int, known: set[str]) -> list[str]:
    """n invented names, none of them among `known`; the same on every machine."""
    rng, names = random.Random(seed), []
    taken = set(known)
    while len(names) < n:
        middle = (
            rng.choice(_CODAS) if rng.random() < 0.8 else rng.choice(_CODAS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        )
        name = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + middle + rng.choice(_ENDS[kind])).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _names(first: list[str], kind: str, n: int, seed: int, known: set[str]) -> Pool:
    """Common names first, then invented ones; flatter than Zipf so that rare names keep turning up."""
    names = first + _made_up(n - len(first), kind, seed, known | set(first))
    return Pool(names, [1 / (rank + 8) ** 0.95 for rank in range(len(names))])


_GIRLS = _names(GIRLS, "girl", 1200, 11, set(BOYS))
_BOYS = _names(BOYS, "boy", 1200, 12, set(_GIRLS.words))


def _fixed_shuffle(word: str) -> int:
    """A fixed shuffle: Python's own hash of a string differs from run to run."""
    value = 7
    for letter in word:
        value = (value * 131 + ord(letter)) % 1_000_003
    return value


_ALL_TOWNS = TOWNS + sorted({f + b for f in _TOWN_FRONT for b in _TOWN_BACK} - set(TOWNS), key=_fixed_shuffle)[:700]

# Things that a person can carry, each with what may be said of it. The property is true of the thing in the sentence
# "… because it was heavy"; beings have states of their own (BEING_STATES), and no word is in both lists.
THINGS = {
    "ball": "heavy, wet, flat, shiny", "key": "rusty, shiny, bent, golden", "lamp": "hot, broken, bright, fragile",
    "book": "heavy, wet, torn, precious", "box": "heavy, empty, locked, fragile", "cake": "hot, sticky, half eaten, crumbly",
    "kite": "torn, tangled, wet, broken", "drum": "loud, heavy, cracked, big", "map": "torn, wet, secret, faded",
    "hat": "wet, itchy, too small, torn", "stone": "heavy, slippery, sharp, shiny", "bell": "loud, cracked, golden, heavy",
    "basket": "full, heavy, broken, sticky", "lantern": "hot, bright, fragile, rusty", "violin": "fragile, precious, out of tune, broken",
    "umbrella": "broken, wet, torn, too big", "mirror": "fragile, cracked, heavy, dusty", "clock": "broken, loud, fragile, golden",
    "rope": "tangled, wet, frayed, too short", "bucket": "full, heavy, leaking, rusty", "letter": "wet, secret, torn, precious",
    "painting": "precious, fragile, dusty, heavy", "suitcase": "heavy, locked, full, too big", "teapot": "hot, full, cracked, fragile",
    "bottle": "slippery, cracked, full, fragile", "chair": "broken, heavy, wobbly, dusty", "ladder": "wobbly, heavy, too short, broken",
    "pumpkin": "heavy, rotten, huge, slippery", "melon": "heavy, ripe, slippery, huge", "vase": "fragile, cracked, precious, full",
    "trumpet": "loud, bent, golden, dented", "hammer": "heavy, rusty, loose, bent", "shovel": "heavy, rusty, bent, dirty",
    "blanket": "wet, itchy, dirty, torn", "coat": "wet, dirty, too big, torn", "boot": "dirty, leaking, too small, wet",
    "ring": "golden, too small, precious, shiny", "crown": "golden, heavy, too big, precious", "sword": "sharp, heavy, rusty, bent",
    "shield": "heavy, dented, rusty, shiny", "telescope": "fragile, dusty, heavy, broken", "compass": "broken, precious, rusty, cracked",
    "puppet": "tangled, dusty, broken, torn", "doll": "dusty, precious, torn, dirty", "wheel": "heavy, flat, wobbly, broken",
    "barrel": "heavy, leaking, empty, rotten", "cage": "empty, rusty, locked, dirty", "net": "tangled, torn, wet, full",
    "candle": "hot, bent, sticky, too short", "jar": "sticky, empty, cracked, full", "pie": "hot, sticky, half eaten, huge",
    "cheese": "smelly, ripe, half eaten, precious", "fish": "smelly, slippery, huge, rotten", "feather": "dusty, precious, bent, wet",
    "flag": "torn, faded, too big, wet", "button": "shiny, loose, cracked, golden", "whistle": "loud, rusty, bent, shiny",
    "camera": "broken, precious, fragile, dusty", "radio": "loud, broken, heavy, dusty", "globe": "heavy, faded, dented, dusty",
    "chest": "locked, heavy, empty, rotten", "statue": "heavy, golden, cracked, fragile", "saddle": "heavy, wet, torn, dirty",
    "flute": "out of tune, fragile, precious, cracked", "harp": "out of tune, heavy, golden, dusty", "cushion": "torn, dusty, faded, wet",
    "carpet": "heavy, dusty, torn, faded", "kettle": "hot, dented, leaking, full", "pan": "hot, sticky, dented, dirty",
}  # fmt: skip
PROPERTIES = {thing: _words(properties) for thing, properties in THINGS.items()}

BEING_STATES = _words("""tired, hungry, cold, scared, bored, sleepy, thirsty, dizzy, nervous, lazy, ill, shy""")

ANIMALS = _words("""cat, dog, fox, owl, bear, rabbit, mouse, hedgehog, goose, crow, otter, badger, goat, frog, squirrel, donkey,
hen, parrot, tortoise, raccoon, beaver, heron, lizard, pony""")
MACHINES = _words("robot")
SEATS = {
    "cat": Pool(_words("mat, chair, wall, bed, sofa, roof, windowsill, piano, carpet, fridge, bookshelf, keyboard"),
                [30, 14, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1]),
    "dog": Pool(_words("mat, rug, sofa, grass, bed, porch, floor, shoe"), [20, 16, 10, 8, 7, 5, 3, 1]),
    "owl": Pool(_words("branch, roof, fence, chimney, wall, church, clock"), [24, 12, 9, 6, 4, 2, 1]),
    "frog": Pool(_words("leaf, stone, log, bucket, throne, wall"), [20, 14, 9, 3, 1, 2]),
    "hen": Pool(_words("nest, fence, wall, roof, cart, tractor"), [20, 10, 7, 4, 3, 2]),
    "parrot": Pool(_words("chair, branch, shoulder of the captain, lamp, piano, hat"), [9, 9, 7, 4, 3, 2]),
}  # fmt: skip

PLACES = _words("""market, garden, forest, harbour, school, river, castle, mill, library, station, bakery, beach, bridge, museum,
theatre, farm, hill, lake, park, cave, church, zoo, post office, lighthouse, barn, cellar, kitchen, workshop, orchard,
meadow, swamp, tower, bank, hospital, inn, town hall, cemetery, vineyard, quarry, circus""")
HIDING = _words("""under the stairs, behind the door, in a hollow tree, under a loose board, in the oven, behind the clock,
under the bed, in the flower pot, inside the piano, behind the books, under the doormat, in the hayloft, behind the mirror,
in the rain barrel, under the third bench, inside an old boot, in the chicken house, behind the waterfall""")
JOBS = _words("""teacher, baker, farmer, sailor, doctor, painter, tailor, gardener, librarian, fisherman, judge, miller, postman,
carpenter, captain, clown, cook, detective, driver, knight, mayor, musician, nurse, pilot, plumber, poet, thief, waiter,
watchmaker, wizard""")
TEMPERS = _words("""little, young, old, clever, brave, curious, quiet, cheerful, stubborn, polite, clumsy, proud, gentle, grumpy,
honest, lazy, patient, serious, friendly, nosy, careful, noisy, kind, dreamy, forgetful""")
LOOKS = _words("""old, small, red, big, blue, strange, beautiful, green, heavy, wooden, tiny, yellow, black, white, dusty, shiny,
round, silver, broken, colourful, ugly, plain, brown, painted, purple, orange, striped, crooked, enormous, elegant, pink, grey,
polished, cheap, expensive, rusty, wonderful, terrible, ordinary, famous, forgotten, square, hollow, mysterious, ridiculous,
foreign, antique, tall, narrow, magnificent, lopsided, ancient, crumpled, spotless, peculiar""")
ADVERBS = _words("""slowly, quickly, carefully, happily, quietly, proudly, gladly, politely, nervously, secretly, suddenly, sadly,
bravely, lazily, gently, angrily, calmly, eagerly, sleepily, solemnly, clumsily, cheerfully, patiently, firmly""")
WEATHER = _words("""sunny, rainy, windy, cold, foggy, warm, snowy, stormy, cloudy, hot, grey, bright, misty, frosty""")
DAYS = _words("""Sunday, Monday, Saturday, Friday, Tuesday, Thursday, Wednesday""")
TIMES = _words("""morning, evening, afternoon, night""") + DAYS
DAYPARTS = _words("""morning, afternoon, evening""")
DEEDS = _words("""feed the hens, water the roses, write a letter, sweep the floor, fix the roof, bake a pie, milk the goat,
paint the fence, ring the bell, count the stars, polish the silver, wake the mayor, close the gate, sing at the wedding, return the library books,
mend the net, light the fire, wash the dishes, visit the aunt in the hospital, clean the cage""")
FOODS = _words("""apple, egg, pear, cookie, potato, carrot, plum, cherry, bun, sausage, onion, pancake, nut, lemon, turnip, fig,
mushroom, olive, biscuit, dumpling""")
RELATIVES = _words("""friend, neighbour, cousin, teacher, classmate, old friend""")
COLLECTIVE = _words(
    """a bowl of soup, a slice of bread, some cheese, a big pancake, two boiled eggs, a cold sausage, porridge"""
)
SONGS = _words(
    """a song about the sea, an old song, a silly song, a lullaby, a song without words, the song of the miller"""
)
VERBS = _words("""painted, washed, sold, admired, repaired, polished, borrowed, lost, broke, drew, wrapped, weighed, measured,
cleaned, moved, collected, decorated, examined, photographed, buried, described, ordered, looked for, tripped over, dreamed of,
wrote a poem about, argued about, found, wanted, built, forgot, noticed, stole, kept, mentioned, remembered, imagined, needed""")
SIGHTS = _words("""window, gate, well, cart, boat, bench, tree, tent, wheelbarrow, scarecrow, windmill, rainbow, snowman, puddle,
shadow, footprint, signpost, carriage, balloon, bicycle, train, tractor, sandcastle, nest, bonfire, poster, fountain, staircase,
chimney, piano, swing, canoe, stable, haystack, fence, garden gnome, sundial, kiosk, anchor, cannon, hammock,
beehive, trapdoor, telephone, bathtub, wardrobe, chandelier, suit of armour, bookshelf""")
CLAUSES = _words("""it began to rain, the sun went down, the church bells rang, everybody was asleep, the wind blew, the dogs barked,
the soup boiled over, snow fell, the shops were closed, a band played, the stars came out, the tide came in, a door slammed,
the fog lifted, the lights went out, dinner was getting cold, the clock struck three, a train went by, the neighbours argued,
the candles burned low, children laughed, the mayor gave a speech, leaves fell, thunder rolled""")
NUMBERS = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]

POOLS = {
    "girls": _GIRLS, "boys": _BOYS, "towns": Pool(_ALL_TOWNS, [1 / (r + 5) for r in range(len(_ALL_TOWNS))]),
    "things": Pool(list(THINGS), [1 / (r + 14) for r in range(len(THINGS))]),
    "animals": Pool(ANIMALS, [1 / (r + 6) for r in range(len(ANIMALS))]),
    "places": Pool(PLACES, [1 / (r + 8) for r in range(len(PLACES))]),
    "hiding": Pool(HIDING, [1 / (r + 8) for r in range(len(HIDING))]),
    "jobs": Pool(JOBS, [1 / (r + 10) for r in range(len(JOBS))]),
    "tempers": Pool(TEMPERS, [1 / (r + 8) for r in range(len(TEMPERS))]),
    "looks": Pool(LOOKS, [1 / (r + 14) for r in range(len(LOOKS))]),
    "adverbs": Pool(ADVERBS, [1 / (r + 8) for r in range(len(ADVERBS))]),
    "verbs": Pool(VERBS, [1 / (r + 16) for r in range(len(VERBS))]),
    "sights": Pool(SIGHTS, [1 / (r + 18) for r in range(len(SIGHTS))]),
    "clauses": Pool(CLAUSES, [1 / (r + 12) for r in range(len(CLAUSES))]), "days": Pool(DAYS, [1 / (r + 6) for r in range(len(DAYS))]),
    "weather": Pool(WEATHER), "times": Pool(TIMES, [1 / (r + 5) for r in range(len(TIMES))]), "dayparts": Pool(DAYPARTS),
    "deeds": Pool(DEEDS, [1 / (r + 10) for r in range(len(DEEDS))]), "foods": Pool(FOODS, [1 / (r + 8) for r in range(len(FOODS))]),
    "relatives": Pool(RELATIVES), "meals": Pool(COLLECTIVE), "songs": Pool(SONGS),
    **{f"seats_{animal}": seats for animal, seats in SEATS.items()},
}  # fmt: skip
