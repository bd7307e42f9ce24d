"""The 80 object classes of COCO and the words with which captions name them. A table of our own.

Each line is a class, as COCO spells it, and further words for it, in the singular, all with commas between (indented lines go
on). A word may be two or three words. Words that mean a class only sometimes ("bat", "glove", "mouse pad") are left out.
"""

_TABLE = """
person: people, human, man, woman, boy, girl, child, kid, baby, toddler, infant, adult, teenager, teen, youngster,
    guy, gentleman, gentlemen, lady, male, female, someone, pedestrian, passenger, rider, driver, player, skier,
    snowboarder, surfer, skateboarder, skater, cyclist, biker, motorcyclist, batter, pitcher, catcher, umpire,
    athlete, worker, farmer, chef, waiter, waitress, soldier, police officer, policeman, officer, cop, fireman,
    firefighter, student, teacher, tourist, swimmer, sailor, couple, family, crowd, bride, groom, mother, father,
    mom, dad, son, daughter, brother, sister, friend, doctor, nurse, cowboy, businessman, vendor, audience,
    spectator, jockey, dancer, artist, boarder, kitesurfer, photographer
bicycle: bike, tricycle, unicycle, mountain bike
car: automobile, sedan, suv, minivan, van, taxi, cab, taxicab, hatchback, convertible, limousine, jeep, station
    wagon, police car, coupe
motorcycle: motorbike, motor bike, motor cycle, scooter, moped, dirt bike, vespa
airplane: plane, aeroplane, air plane, jet, airliner, aircraft, jetliner, biplane, seaplane, fighter jet, jumbo jet,
    propeller plane
bus: minibus, trolley bus, double decker, schoolbus, coach bus, tour bus
train: locomotive, tram, subway train, caboose, streetcar, freight train, steam engine, bullet train
truck: pickup, lorry, semi, trailer truck, fire truck, firetruck, tow truck, dump truck, tractor trailer, pickup
    truck, food truck
boat: ship, sailboat, sail boat, canoe, kayak, rowboat, ferry, yacht, raft, gondola, speedboat, motorboat, dinghy,
    cruise ship, barge, tugboat, catamaran, vessel
traffic light: traffic signal, stop light, stoplight, street signal
fire hydrant: hydrant, fireplug
stop sign:
parking meter: meter
bench: pew, park bench
bird: pigeon, seagull, gull, duck, duckling, goose, swan, ostrich, parrot, owl, eagle, hawk, chicken, hen, rooster,
    turkey, penguin, crow, sparrow, pelican, peacock, flamingo, crane bird, heron, falcon, robin, cockatoo,
    parakeet, hummingbird, dove, chick
cat: kitten, kitty, feline, tabby
dog: puppy, pup, canine, terrier, retriever, poodle, bulldog, dachshund, beagle, collie, labrador, chihuahua, husky,
    sheepdog, corgi, pug, mutt, spaniel, golden retriever, german shepherd
horse: pony, colt, foal, stallion, mare, mustang, bronco
sheep: lamb, ram, ewe
cow: cattle, bull, calf, ox, oxen, heifer, steer, bison
elephant: baby elephant
bear: polar bear, grizzly, grizzly bear, bear cub, cub, panda, brown bear, black bear
zebra:
giraffe:
backpack: knapsack, back pack, rucksack
umbrella: parasol
handbag: purse, hand bag, tote bag, pocketbook, clutch bag
tie: necktie, neck tie, bow tie, bowtie
suitcase: luggage, suit case, briefcase, brief case, trunk case
frisbee: flying disc, flying disk
skis: ski
snowboard: snow board
sports ball: ball, baseball, basketball, soccer ball, football, tennis ball, volleyball, beach ball
kite: paraglider kite
baseball bat: ball bat
baseball glove: catcher mitt, mitt, baseball mitt
skateboard: skate board, longboard
surfboard: surf board, paddleboard, paddle board, boogie board, bodyboard, wakeboard
tennis racket: racket, racquet, tennis racquet
bottle: wine bottle, beer bottle, water bottle
wine glass: wineglass, goblet, champagne glass, champagne flute
cup: mug, teacup, coffee cup, tea cup, coffee mug
fork:
knife: pocketknife, butter knife, steak knife, pocket knife
spoon: teaspoon, tablespoon, ladle
bowl: dish bowl
banana: plantain
apple:
sandwich: burger, hamburger, cheeseburger, sub sandwich, panini, blt, hoagie, grilled cheese
orange: tangerine, mandarin, clementine, citrus
broccoli:
carrot:
hot dog: hotdog, frankfurter, bratwurst
pizza: pepperoni pizza
donut: doughnut
cake: cheesecake, cupcake, birthday cake, shortcake, coffeecake, wedding cake
chair: armchair, arm chair, stool, recliner, rocking chair, seat, high chair, lawn chair, office chair
couch: sofa, loveseat, love seat, futon, settee, sectional
potted plant: houseplant, house plant, plant, flowerpot, flower pot, bonsai, fern
bed: mattress, bunk bed, crib, cot
dining table: table, desk, coffee table, kitchen table, picnic table, tabletop
toilet: commode, urinal, latrine
tv: television, television set, tv set, monitor, flat screen, flatscreen, computer screen
laptop: laptop computer, notebook computer, macbook, netbook
mouse: computer mouse
remote: remote control, controller, game controller, wii remote, wii controller
keyboard: computer keyboard
cell phone: cellphone, mobile phone, phone, smartphone, smart phone, iphone, telephone
microwave: microwave oven
oven: stove, stovetop, stove top, stove top oven, range oven
toaster: toaster oven
sink: washbasin, wash basin, basin
refrigerator: fridge, freezer
book: novel, textbook, cookbook
clock: clock face, alarm clock, wristwatch, clock tower clock
vase:
scissors: scissor, shears
teddy bear: teddy, stuffed bear, stuffed teddy bear, teddybear
hair drier: hairdryer, hair dryer, blow dryer, hairdrier
toothbrush: tooth brush, electric toothbrush
"""


def _read() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in _TABLE.replace("\n    ", " ").strip().splitlines():
        name, _, words = line.partition(":")
        found[name] = name
        found |= {word: name for word in map(str.strip, words.split(",")) if word}
    return found


OBJECT_OF_WORD = _read()  # every word, the classes' own names included -> the class
COCO_OBJECTS = tuple(dict.fromkeys(OBJECT_OF_WORD.values()))

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
# Pairs of words that mean the second alone, or nothing of the 80 ("" for those).
MEANT = (
    {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS}
    | {
        "passenger jet": "jet",
        "passenger train": "train",
        "passenger plane": "plane",
        "home plate": "",
        "toilet seat": "toilet",
    }
    | {"street light": "", "ski lift": "", "ski slope": "", "ski resort": "", "bottle cap": "", "cup holder": ""}
)

SINGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "feet": "foot",
    "teeth": "tooth",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
    "leaves": "leaf",
    "loaves": "loaf",
    "calves": "calf",
    "halves": "half",
    "shelves": "shelf",
    "scarves": "scarf",
    "wolves": "wolf",
    "buses": "bus",
    "busses": "bus",
    "minibuses": "minibus",
    "schoolbuses": "schoolbus",
    "canoes": "canoe",
    "shoes": "shoe",
    "toes": "toe",
    "skis": "ski",
    "taxis": "taxi",
    "ties": "tie",
    "neckties": "necktie",
    "bowties": "bowtie",
    "pies": "pie",
    "cookies": "cookie",
    "hoodies": "hoodie",
    "selfies": "selfie",
    "huskies": "husky",
    "policemen": "policeman",
    "firemen": "fireman",
    "businessmen": "businessman",
    "gentlemen": "gentleman",
    "axes": "axe",
    "lenses": "lens",
    "scissors": "scissors",
    "shears": "shears",
    "ostriches": "ostrich",
}
