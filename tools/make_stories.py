#!/usr/bin/env python3
"""Write a corpus of short stories from a seeded grammar, one story a line.

`make quickstart` and the tests use these stories, which need no download and no package. The
stories are simple (about 600 different words, eleven plots, characters with consistent names and
pronouns), so that a tiny model learns to generate readable stories within minutes.

    python tools/make_stories.py --count 6000 --seed 1 --output stories.txt
"""

import argparse
import os
import random
import re
import sys
from collections.abc import Iterator


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


def column(field: str, text: str) -> tuple[str | tuple[str], ...]:
    """Return a table with one field, whose rows are the words of a text."""
    return (field, *((word,) for word in text.split()))


GIRLS = words("Lily Mia Anna Rosie Ella Sue Lucy Nora Amy Zoe Molly Ruby")
BOYS = words("Tom Ben Max Sam Leo Tim Jack Finn Oscar Toby Hugo Noah")
ANIMALS = words("rabbit bear fox mouse duck cat puppy squirrel hedgehog frog")
TRAITS = words("kind brave curious shy happy clever little gentle quiet cheerful")

# Tables of slots that are filled together: the names of the fields, and the rows.
PLACES = (
    "where place spot1 spot2 spot3",
    ("in", "the park", "under the bench", "behind the big tree", "near the pond"),
    ("in", "the forest", "under a bush", "behind a fallen log", "near the stream"),
    ("at", "the beach", "under the boat", "behind a sand hill", "near the water"),
    ("on", "the farm", "under the hay", "behind the barn", "near the well"),
    ("in", "the garden", "under the roses", "behind the shed", "near the gate"),
    ("in", "the meadow", "under the leaves", "behind the hill", "near the creek"),
)
COLORS = column("color", "red blue green yellow purple white")
TOYS = column("toy", "ball kite drum boat doll whistle train hat scarf ribbon coat")
TREATS = column("treat", "apple cake cookie pear pie muffin orange")
PARENTS = ("parent they", ("mother", "she"), ("father", "he"), ("grandmother", "she"))
PETS = column("pet", "bird kitten lamb turtle butterfly bee")
TROUBLES = (
    "trouble cure",
    ("was stuck in a bush", "pulled the branches apart"),
    ("had fallen into a hole", "reached down with a long stick"),
    ("was cold and wet", "wrapped it in a warm scarf"),
    ("was lost and afraid", "carried it back to its home"),
    ("was too weak to move", "gave it some water and food"),
)
FEARS = (
    "fear advice deed",
    ("the dark", "it is only the day with its eyes closed", "looked up at the stars"),
    ("deep water", "let us start where it is not deep", "splashed with both feet"),
    ("thunder", "it is only the clouds clapping", "counted the claps out loud"),
    ("high places", "hold my hand and look at the sky", "climbed up to the top of the hill"),
    ("loud noises", "take a slow breath with me", "sang a soft song"),
)
WORKS = (
    "work thing fault remedy",
    ("a tower of blocks", "tower", "fell over", "put the big blocks at the bottom"),
    ("a sand castle", "castle", "slid apart", "used wet sand"),
    ("a kite", "kite", "would not fly", "gave it a longer tail"),
    ("a little bridge", "bridge", "broke in the middle", "tied the sticks with string"),
    ("a snowman", "snowman", "tipped to one side", "rolled a bigger ball for the bottom"),
    ("a tree house", "tree house", "shook in the wind", "used more nails"),
)
FRAGILE = ("glass room", ("cup", "kitchen"), ("vase", "hall"), ("plate", "kitchen"))
SEEDS = ("plant size", ("sunflower", "tall"), ("pumpkin", "round"), ("bean", "long"))
GIFTS = ("gift", ("crown of flowers",), ("picture of a boat",), ("wooden horse",), ("warm hat",))
SHELTERS = ("shelter", ("a cave",), ("an old barn",), ("a hollow tree",), ("a small hut",))
CHASED = ("chased", ("a butterfly",), ("a little bird",), ("a rolling ball",), ("a pretty leaf",))

# Each line is one sentence or two. Alternatives are separated by |, and a line that begins with ?
# is sometimes left out.
OPENING = """
Once upon a time, there was a {hero.trait} {hero.kind} named {hero}. | Once upon a time, \
there was a {hero.trait} {hero.kind} named {hero}. | Once upon a time, a {hero.trait} \
{hero.kind} named {hero} lived near {place}. | There once was a {hero.trait} {hero.kind}. \
{hero.their} name was {hero}. | In a small house near {place} lived a {hero.trait} \
{hero.kind} named {hero}.
"""
WEATHER = """
? The sun was warm and bright. | It was a cold and windy day. | The sky was blue and the \
birds were singing. | Soft white clouds were in the sky. | It was early in the morning.
"""
ENDING = """
From that day on, {hero} and {friend} were the best of friends. | {hero} and {friend} went \
home with a big smile. | That night, {hero} slept well and had a happy dream. | {hero} and \
{friend} laughed and played until the sun went down. | And they all lived happily ever after.
"""

LOST_THING = """
{hero} had a {color} {toy} and loved it very much.
One day, {hero} played {where} {place} and the {toy} was gone. | One morning, {hero} could \
not find the {toy}.
{hero} was very sad and began to cry. | "Oh no, where is my {toy}?" said {hero}.
{friend.full} heard {hero.them} and said, "I will help you look." | "Do not cry," said \
{friend.full}. "We will look for it together."
They looked {spot1}, but it was not there.
? They looked {spot2}, but they found only a leaf. | They looked {spot2}, but they found \
only an old shoe.
Then {friend} looked {spot3}, and there was the {color} {toy}! | At last they looked \
{spot3} and saw something {color}. It was the {toy}!
"Thank you, {friend}!" said {hero} and gave {friend.them} a hug. | {hero} jumped with joy \
and thanked {friend}.
? {hero} learned to take good care of {hero.their} things. | It is easier to find things \
with a friend.
"""

SHARING_LATE = """
{hero} had a big {treat} for lunch.
{hero} sat down in the grass to eat it. | {hero} wanted to eat the {treat} all alone.
Then {friend.full} came by. {friend.they} was very hungry. | Then {friend.full} walked by \
and looked at the {treat}.
"May I have some of your {treat}?" asked {friend}. | "Can you share with me?" asked {friend}.
"No, it is mine!" said {hero}. | {hero} said, "No, I want it all."
{friend} was sad and walked away. | {friend} looked down and did not say a word.
{hero} took a bite, but the {treat} did not taste good any more. | Now {hero} was alone and \
did not feel happy.
{hero} ran after {friend} and said, "I am sorry. You can have half." | "Wait!" called \
{hero}. "Let us share it."
They ate the {treat} together, and it was the best {treat} ever. | The two friends sat side \
by side and ate the {treat}.
? Good things are better when you share them. | {hero} learned that it is nice to share.
"""

SHARING = """
{hero} had a big {treat} and wanted to eat it {where} {place}.
On the way {hero.they} met {friend.full}. | {friend.full} was sitting there all alone.
"Why are you so sad?" asked {hero}. "I am hungry," said {friend}. | {friend} looked at the \
{treat} and said, "I have nothing to eat."
{hero} smiled and said, "Here is half for you." | "We can share it," said {hero}.
They ate the {treat} together, and it was the best {treat} ever. | The two friends sat side \
by side and ate the {treat}.
The next day, {friend} had a {treat2} and gave half of it to {hero}.
? Good things are better when you share them. | {hero} was happy to have a new friend.
"""

ANIMAL_IN_NEED = """
{hero} liked to walk {where} {place}.
One day, {hero} heard a small sound. | One day, {hero} saw something move.
It was a little {pet} that {trouble}. | A tiny {pet} {trouble}.
"Poor little {pet}," said {hero}. "I will help you." | "Do not be afraid," said {hero}.
? {hero} called {friend.full}, and {friend} came running. | But {hero} could not do it \
alone, so {hero.they} asked {friend.full} for help.
Very slowly, {hero} {cure}. | {hero} was careful and {cure}.
Soon the {pet} was safe and happy. | Now the {pet} felt much better.
The {pet} came back the next day to say thank you. | The {pet} danced around {hero} and \
{friend}.
? {hero} was glad to help. | Even a small friend can make you very happy.
"""

AFRAID = """
{hero} was afraid of {fear}.
When the others played, {hero} stayed at home. | {hero} did not tell anyone about it.
One day, {friend.full} asked, "Why do you look so sad?" | {friend.full} saw that {hero} was \
shaking and asked, "What is wrong?"
"I am afraid of {fear}," said {hero} in a small voice.
{friend} did not laugh and said, "Do not worry, {advice}." | "I was afraid too," said \
{friend}. "But {advice}."
{hero} took a deep breath. | {hero} held {friend}'s hand.
Together they {deed}.
"It is not so bad!" said {hero}. | After a while, {hero} began to smile.
? {hero} was proud of being so brave. | To be brave is to try even when you are afraid.
"""

BUILDING = """
{hero} wanted to make {work}.
{hero} worked all morning, but the {thing} {fault}. | {hero} tried and tried, but the \
{thing} {fault}.
"I will never do it," said {hero}. | {hero} was angry and kicked a stone.
{friend.full} came by and said, "Let us try again together." | "Do not give up," said \
{friend.full}. "I have an idea."
This time they {remedy}. | So they {remedy} and worked side by side.
? It took a long time, but they did not stop. | {friend} told a funny story while they worked.
At last the {thing} was done, and it was wonderful. | Now the {thing} was the best in the \
whole town.
"We did it!" said {hero} and {friend}. | {hero} clapped and {friend} danced.
? {hero} learned to try again. | Two friends can do what one cannot do alone.
"""

STORM = """
{hero} liked to play {where} {place} with {friend.full}.
One day, dark clouds came over the hills. | One day, the wind began to blow very hard.
Then the rain came down. | Soon big drops of rain fell from the sky.
"We must run!" said {friend}. | "I am getting wet!" said {hero}.
They ran and ran until they found {shelter}. | {hero} saw {shelter}, and they went inside.
Inside it was dry and warm. | There they met an old {animal} who gave them soup.
? {hero} sang a song, and {friend} was not afraid any more. | They told each other stories \
while they waited.
When the rain was over, there was a rainbow in the sky. | Soon the sun came out again, and \
everything was shining.
"Look how pretty it is!" said {hero}. | {hero} and {friend} jumped in the puddles.
? After the rain, the sun always comes back.
"""

SURPRISE = """
Tomorrow was the birthday of {friend.full}.
{hero} wanted to give {friend.them} a gift, but {hero.they} had no money. | "What can I \
give to {friend}?" thought {hero}.
So {hero} went to {place} and thought for a long time. | {hero} thought and thought, and \
then {hero.they} had an idea.
All day long, {hero} made a {gift}. | {hero} worked until the moon was up and made a {gift}.
The next day, {hero} hid behind the door. | In the morning, {hero} went to the house of \
{friend}.
"Surprise!" said {hero}. | "Happy birthday, {friend}!" said {hero}.
{friend} opened the box and saw the {gift}. | When {friend} saw the {gift}, {friend.they} \
could not believe it.
"You made this for me? It is the best gift of all," said {friend}. | {friend} hugged {hero} \
for a long time.
? A gift from the heart is the best gift.
"""

LOST_WAY = """
{hero} liked to play near {place}.
One day, {hero} ran after {chased} and did not look back. | One day, {hero} followed \
{chased} far away.
When {hero} stopped, {hero.they} did not know the way home. | Soon everything looked strange \
and new.
"I am lost," said {hero} and began to cry. | {hero} called for help, but nobody came.
Then {hero} met a {friend.trait} {friend.kind} named {friend}. | A {friend.kind} named \
{friend} came out from behind a tree.
"I know the way," said {friend}. "Come with me." | "Do not worry," said {friend}. "I will \
take you home."
They walked until they saw a path {spot1}. | They found a way {spot2} and another {spot3}.
At last {hero} saw {hero.their} house. | There was {hero}'s {parent}, waiting at the door.
"Thank you, {friend}!" said {hero}. "Please stay for dinner." | {hero}'s {parent} gave \
{friend} a warm {treat}.
? {hero} never ran so far away again.
"""

PATIENCE = """
{hero} had one small {plant} seed.
{hero} put the seed into the ground in the garden. | {hero} put the seed into a little pot.
Every day {hero} gave it water, but nothing came up. | {hero} waited and waited, but there \
was no plant.
"Maybe it is a bad seed," said {hero}. | {hero} wanted to dig it up again.
"You must wait," said {friend.full}. "Good things take time." | {friend.full} said, "Give \
it a little more time."
? The sun was shining, and the rain was falling. | One week went by, and then another.
One morning, there was a tiny green leaf. | "Look, {friend}!" said {hero}. "It is growing!"
The {plant} grew and grew until it was very {size}. | Soon it was the most beautiful \
{plant} in the village.
{hero} gave {friend} a new seed to say thank you. | {hero} and {friend} sat beside it and \
were happy.
? {hero} learned to wait. | Good things take time.
"""

TRUTH = """
One day, {hero} and {friend.full} were playing in the {room}. | One rainy day, {hero} and \
{friend.full} ran through the {room}.
Bang! The {glass} of {hero}'s {parent} fell down and broke. | By accident, {hero} broke the \
{glass} of {hero.their} {parent}.
"What should I do?" said {hero}. "I will hide it." | {hero} was afraid and wanted to hide \
the pieces.
"You should tell the truth," said {friend}. | {friend} said, "It is better to say what \
happened."
So {hero} went to {hero.their} {parent} and said, "I broke your {glass}. I am sorry."
The {parent} was not angry. "Thank you for telling me," {they} said. | "It was only a \
{glass}," said the {parent}. "I am proud of you."
Together they fixed the {glass} with glue. | They cleaned the {room} and bought a new {glass}.
? {hero} felt much better. | It is always good to tell the truth.
"""

PLOTS = (
    LOST_THING,
    SHARING_LATE,
    SHARING,
    ANIMAL_IN_NEED,
    AFRAID,
    BUILDING,
    STORM,
    SURPRISE,
    LOST_WAY,
    PATIENCE,
    TRUTH,
)
TABLES = (
    PLACES,
    COLORS,
    TOYS,
    TREATS,
    PARENTS,
    PETS,
    TROUBLES,
    FEARS,
    WORKS,
    FRAGILE,
    SEEDS,
    GIFTS,
    SHELTERS,
    CHASED,
)


class Person:
    """A character with a name, a kind and matching pronouns.

    Args:
        rng: source of random choices.
        taken: name of another character, which must not be used again.
    """

    def __init__(self, rng: random.Random, taken: str | None = None) -> None:
        is_girl = rng.random() < 0.5
        self.name = rng.choice([name for name in (GIRLS if is_girl else BOYS) if name != taken])
        is_animal = rng.random() < 0.4
        self.kind = rng.choice(ANIMALS) if is_animal else "girl" if is_girl else "boy"
        self.full = f"{self.name} the {self.kind}" if is_animal else f"little {self.name}"
        self.trait = rng.choice(TRAITS)
        self.they, self.them, self.their = (
            ("she", "her", "her") if is_girl else ("he", "him", "his")
        )

    def __str__(self) -> str:
        return self.name


def choose(rng: random.Random, text: str) -> Iterator[str]:
    """Yield one alternative of each line of a plot; leave out some of the lines with ?."""
    for line in text.strip().split("\n"):
        if line.startswith("?"):
            if rng.random() < 0.4:
                continue
            line = line[1:]
        yield rng.choice(line.split(" | ")).strip()


def write_story(rng: random.Random) -> str:
    """Return a random story."""
    hero = Person(rng)
    slots = {"hero": hero, "friend": Person(rng, taken=hero.name), "animal": rng.choice(ANIMALS)}
    for fields, *rows in TABLES:
        slots.update(zip(fields.split(), rng.choice(rows), strict=True))
    slots["treat2"] = rng.choice([word for (word,) in TREATS[1:] if word != slots["treat"]])
    plot = rng.choice(PLOTS).strip().split("\n", 1)
    parts = (OPENING, plot[0], WEATHER, plot[1], ENDING)
    text = " ".join(line for part in parts for line in choose(rng, part)).format(**slots)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return re.sub(r"(?:^|[.!?] )[a-z]", lambda found: found.group().upper(), text)


def stories(count: int, seed: int) -> Iterator[str]:
    """Yield ``count`` different stories, which depend only on the seed."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        text = write_story(rng)
        if text not in seen:
            seen.add(text)
            yield text


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--count", type=int, default=6000, help="number of stories (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: %(default)s)")
    parser.add_argument("--output", help="file to write (default: standard output)")
    args = parser.parse_args()
    if args.output is None:
        sys.stdout.writelines(text + "\n" for text in stories(args.count, args.seed))
        return
    temporary = f"{args.output}.partial"
    with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(text + "\n" for text in stories(args.count, args.seed))
    os.replace(temporary, args.output)


if __name__ == "__main__":
    main()
