//! The words that stories are filled with.

use std::sync::LazyLock;

pub(super) type Words = LazyLock<Vec<&'static str>>;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: Words = LazyLock::new(|| $text.split_whitespace().collect());)*
    };
}

words! {
    GIRLS = "Lily Mia Anna Ella Rosa Nora Zoe Ivy Ruby Clara Maya Lucy Emma Sofia Hanna Greta Ada Elsa Freya
        Nina Tara Leila Amira Yuki Mei Priya Kira Olga Pia Tilda Wanda Vera Sally Betty Dora Flora Hazel Iris
        June Katie Laura Molly Nelly Polly Queenie Rita Stella Tess Uma Violet Willa Alma Bea Celia Daisy Edith
        Fiona Gwen Helga Inga Jenny Kiki Lotte Mabel Naomi Opal Paula Rachel Susan Thea Ursula Zara Amy Bonnie
        Carmen Dina Esther Fatima Gloria Heidi Isabel Josie Kate Linda Matilda Nadia Odette Penny Ramona
        Sabrina Tamara Ulla Vanessa Wilma Xenia Yasmin Agnes Bianca Carla Delia Eva Gina Hilda Irma Judy Lena";
    BOYS = "Tom Ben Max Leo Sam Finn Otto Hugo Jack Noah Theo Oscar Emil Jonas Karl Liam Milo Nils Oliver Paul
        Quentin Ralph Simon Toby Victor Walter Xavier Yusuf Zack Adam Bruno Caleb David Eric Felix George Henry
        Ivan Jacob Kofi Luis Marco Ned Omar Pedro Ravi Samir Tariq Umar Vince Will Albert Bobby Carlos Dexter
        Edgar Freddy Gus Harry Isaac Joey Kenji Lars Martin Nico Olaf Peter Roger Stefan Timmy Andy Billy Colin
        Danny Elliot Frank Gilbert Howard Ian Jerome Kevin Louis Mason Nathan Orson Philip Quincy Robert Stanley
        Thomas Ulric Vernon Warren Yannick Abel Boris Conrad Dennis Elmer Felipe Gordon Hector Igor Julian Keith
        Leroy Marvin Norman Otis Pablo Rufus";
    ANIMALS = "rabbit fox bear mouse squirrel hedgehog owl duck frog turtle beaver badger otter deer lamb goat pony
        donkey kitten puppy piglet hen goose swan raccoon hamster lizard penguin seal koala panda monkey tiger
        lion elephant giraffe zebra camel parrot crow robin sparrow pigeon mole weasel skunk possum llama calf
        crab dolphin walrus moose wolf lynx toucan pelican stork heron magpie woodpecker chipmunk";
    SMALL = "butterfly ladybug beetle snail caterpillar bee ant cricket dragonfly spider firefly grasshopper moth worm
        minnow tadpole newt salamander wren finch swallow shrimp starfish clam";
    OBJECTS = "ball kite drum boat doll hat scarf book lantern bell whistle basket bucket blanket marble button ring
        cup spoon teapot wagon sled rope mirror clock flute violin trumpet puppet puzzle crayon pencil ribbon
        umbrella balloon key map coin shell stone feather necklace bracelet lamp candle pillow jacket mitten sock
        boot sweater apron backpack purse bottle jar box chest broom brush comb shovel rake hammer ladder robot
        train truck airplane rocket bicycle scooter tricycle skateboard swing globe telescope magnet compass
        camera radio guitar harp tambourine banjo notebook postcard painting photo statue vase plate bowl kettle
        pan thermos tent net windmill pinwheel yoyo top kazoo locket medal badge crown cape mask wand costume
        slipper glove belt wallet quilt cushion stool bench cradle birdhouse wheelbarrow snowglobe dollhouse
        spyglass flag tassel thimble needle spool pinecone acorn bead domino dice canteen lunchbox pennant parasol sundial barometer hourglass bugle
        cymbal xylophone accordion trombone saxophone cello piccolo figurine statuette teddy marionette
        pocketknife canvas easel paintbrush inkwell quill diary atlas almanac calendar bookmark envelope stamp
        corkscrew funnel sieve whisk spatula thermometer stopwatch wristwatch earring bandana poncho kimono vest
        bonnet beret helmet sandal anklet brooch cuff goblet pitcher tray platter saucer jug barrel hamper";
    COLOURS = "red blue green yellow purple pink orange white brown golden silver turquoise violet gray crimson
        scarlet maroon lavender beige ivory copper teal emerald black";
    LOOKS = "tiny big small round shiny soft old new striped spotted wooden fluffy smooth long short bright wooly fancy
        little plain dotted painted velvet glittery dusty sturdy light curly crooked flat heavy sparkling rusty
        woven carved knitted patched polished checkered";
    NATURES = "kind brave shy clever curious happy cheerful quiet gentle funny careful busy friendly patient proud
        playful stubborn silly lively thoughtful hopeful eager bold sleepy hungry calm generous noisy polite
        forgetful adventurous helpful dreamy lonely grumpy honorable loyal merry nervous tidy messy wise";
    PLACES = "park garden forest beach meadow river lake barn mill bridge hill farm market library school bakery church
        castle cave well pond playground field orchard harbor station museum zoo village square tower lighthouse
        cottage cabin attic cellar kitchen greenhouse stable workshop dock island valley cliff waterfall swamp
        desert jungle vineyard theater circus fair stadium bookshop toyshop windmill fountain courtyard alley
        backyard treehouse campsite quarry canyon marsh creek grove thicket haystack henhouse shed garage porch
        balcony rooftop hallway schoolyard bandstand carousel boathouse ferry crossroads hedge pasture clearing";
    FOODS = "apple pear plum peach banana cookie cupcake muffin sandwich carrot tomato potato pumpkin pie pancake waffle
        pretzel bun bagel dumpling strawberry cherry grape melon lemon mango nut walnut almond chestnut radish
        turnip cucumber pickle omelet noodle biscuit cracker doughnut brownie pudding lollipop candy marshmallow
        pizza burrito taco sausage croissant fig apricot kiwi coconut pineapple raisin tart scone";
    WEATHERS = "sunny rainy windy cloudy snowy foggy warm cold stormy misty frosty breezy mild chilly hot drizzly";
    JOBS = "baker farmer teacher doctor painter sailor gardener tailor carpenter miller postman fisherman librarian
        shepherd cook nurse singer clown acrobat blacksmith plumber pilot potter weaver shoemaker musician
        firefighter builder beekeeper barber grocer florist dancer captain mechanic jeweler clockmaker
        magician printer potter wizard cobbler astronaut explorer inventor scientist detective ranger lifeguard
        waiter janitor conductor drummer violinist dentist lawyer judge mayor sheriff soldier guard hunter
        woodcutter glassblower basketmaker candlemaker beadmaker ferryman milkmaid wagoner roofer welder";
    MATERIALS = "glue tape string paper wool clay wood wire paint thread cloth cardboard leather straw wax twine felt
        cotton tin plaster bamboo cork silk yarn";
    PLANTS = "sunflower rose tulip daisy lily pumpkin bean tomato pea cabbage lavender poppy marigold violet
        daffodil orchid fern clover corn onion melon carrot thistle bluebell pansy petunia jasmine primrose";
    SKILLS = "dance sing swim paint whistle juggle skate climb draw cook read count write knit sew sail ride bake
        jump hop skip yodel fish garden hum drum";
    DOINGS = "singing sleeping digging hopping running swimming climbing hiding eating resting dancing splashing
        yawning humming rolling stretching waving jumping drinking chasing building peeking whispering
        nibbling scratching spinning sliding balancing napping munching wobbling marching";
    GROUPS = "leaves flowers pebbles mushrooms berries puddles reeds nettles logs branches roots petals bushes
        dandelions twigs vines brambles ferns boulders acorns stones rocks weeds shrubs tulips hedges stumps
        crates barrels sacks buttercups thorns";
    MANNERS = "quickly slowly carefully happily quietly bravely gladly eagerly calmly boldly cheerfully patiently
        silently steadily swiftly briskly proudly merrily cautiously promptly";
    VOICES = "softly quietly loudly kindly gently sadly warmly sweetly calmly politely shyly bravely nervously hoarsely
        tenderly earnestly timidly faintly cheerily";
    MOVES = "run swim skate climb race hop skip row paddle ski hike march crawl jog gallop sail cycle tiptoe dash sprint";
    TREES = "oak maple birch pine willow elm chestnut cedar spruce beech poplar walnut cypress hazel juniper larch alder
        magnolia linden sycamore holly palm fir rowan aspen";
    FEELINGS = "glad nervous excited worried joyful sleepy dizzy thirsty surprised cozy lucky restless puzzled amazed
        delighted confused thankful relaxed homesick fearless hopeful peaceful tired certain bashful cranky";
    SOUNDS = "splash buzz roar chirp squeak hoot croak rumble whisper growl bark howl quack clatter thump rustle hiss
        tinkle giggle snore murmur squeal snap jingle knock whirr click creak drip crackle";
    DRINKS = "milk cocoa lemonade tea juice cider soup broth punch smoothies buttermilk milkshakes";
    GAMES = "tag hopscotch checkers chess marbles cards leapfrog charades catch soccer tennis baseball basketball golf
        dominoes hangman dodgeball bowling badminton volleyball hockey darts";
    SHAPES = "dragon castle whale heart anchor mushroom wizard pirate dinosaur snowman sheep feather mountain volcano
        octopus teacup saddle pillow trumpet giant knight princess mermaid fairy ogre dwarf camel cactus pyramid
        chimney ship canoe submarine tractor wagon tank crane engine tiara sword shield ladle spider walnut
        peacock ostrich kangaroo hippo rhino gorilla cheetah leopard buffalo reindeer alligator crocodile iguana";
    NUMBERS = "two three four five six seven eight nine ten twelve";
    DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday";
    FEARS = "shadows spiders bees ghosts wasps bats mice crickets snakes rats frogs strangers toads monsters beetles crows";
    PARTIES = "birthday picnic parade concert wedding festival feast party dinner breakfast carnival dance";
    ELDERS_F = "mom grandma aunt sister";
    ELDERS_M = "dad grandpa uncle brother";
}
