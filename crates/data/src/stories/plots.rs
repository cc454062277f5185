//! The plots: what is told first comes back at the end.
//!
//! `[a|b]` is a choice, `{slot}` a fact of the story (see `World::fact`), and a capital first letter
//! of a slot starts a sentence.

/// Sentences of a plot; each may be dropped that starts with `?`.
pub(super) type Plot = &'static [&'static str];

pub(super) const OPENINGS: &[&str] = &[
    "Once upon a time, there was {a nature} [little|young] {kind} named {hero}.",
    "One {weather} {day}, {a nature} {kind} named {hero} woke up early.",
    "[Long ago|Once], near the {place}, lived {a nature} {kind} called {hero}.",
    "{Hero} was {a nature} {kind} who lived [near|beside|not far from] the {place}.",
    "There once was {a kind} named {hero}, and {he} was very {nature}.",
    "In a [small|quiet|pretty] house by the {place} lived {hero}, {a nature} {kind}.",
];

/// Something seen on the way, for colour.
pub(super) const SIGHTS: &[&str] = &[
    "On the way {he} saw {a small} {doing} near some {group}.",
    "{A small} was {doing} [under|between|behind] the {group}.",
    "It was {weather}, and {group} [lay everywhere|covered the path].",
    "{A second} was {doing} by the road and [waved|nodded|smiled] at {him}.",
    "The {job} passed by and said hello {voice}.",
    "{He} counted {number} {group} and laughed.",
    "{A job} was [resting|singing|laughing|waiting|working] [outside|in the sun|at the corner].",
    "The air smelled of {plant} and warm bread.",
    "A cloud in the sky looked like {a shape}.",
    "[Far away|Somewhere near] {he} heard {a sound}, and then it was still.",
    "{A small} sat on the old {tree} and watched.",
    "{He} felt {feeling} and hummed a song about {a shape}.",
    "The wind blew through the {tree}, and {a second} [yawned|sneezed|blinked].",
];

pub(super) const PLOTS: &[Plot] = &[
    // Lost and found where it was left.
    &[
        "{His} {elder} had given {him} {an object}, and {he} [loved it more than anything|took it everywhere].",
        "In the morning {he} [played|sat] with it at the {place}, [right next to|just behind] the {group}.",
        "?Then {he} went to the {other} to eat {a food}.",
        "But in the evening the {thing} was gone!",
        "{Hero} looked [under the bed|in every corner|behind the door], and {he} began to cry.",
        "[\"What is wrong?\" asked {friend}, the {fkind}.|{Friend}, the {fkind}, heard {him} and came {manner}.]",
        "[\"I lost my {thing}!\" said {hero}.|{Hero} told {friend} about the lost {thing}.]",
        "\"Where were you this morning?\" asked {friend} {voice}.",
        "{Hero} thought and thought. \"At the {place}!\" {he} said.",
        "They ran to the {place}, and there, [next to|behind] the {group}, was the {object}.",
        "{Hero} hugged {friend} and promised {his} {elder} to [watch over|take better care of] the gift.",
    ],
    // A hungry animal is fed and helps in return.
    &[
        "That morning {he} packed {a food} and walked to the {place}.",
        "There {he} met {a fkind} named {friend}, who was [very hungry|too hungry to walk].",
        "[\"Please, may I have some of your {food}?\" asked {friend}.|{Friend} looked at the {food} and sighed.]",
        "{Hero} was hungry too, but {he} [broke the {food} in two|gave {friend} half of the {food}].",
        "\"Thank you, {hero},\" said {friend}. \"I will not forget it.\"",
        "?{Friend} ate {manner} and went home to the {other}.",
        "Later {hero} [lost {his} way|fell into a hole|slipped on the {group}] and could not get [home|back].",
        "{He} called {voice}, and [who came running|who heard {him}]? It was {friend}, the {fkind} from the {place}!",
        "\"You shared your {food} with me,\" said {friend}. \"Now I will help you.\"",
        "Soon {hero} was safe, and the two [shared another {food}|ate {food} together every {day}].",
    ],
    // The gift that a friend wished for.
    &[
        "{His} best friend was {friend}, {a fkind} who [wished for|dreamed of] {an object}.",
        "Soon it was the day of {friend}'s {party}, and {hero} had only {number} coins.",
        "[First {he} went to the {other}, but there was nothing nice.|{He} looked at {a food} and at {a thing2}.]",
        "[\"That {thing2} is pretty,\" said the {job}.|The {job} wanted to sell {him} {a thing2}.]",
        "\"No, thank you,\" said {hero}. \"{Friend} does not wish for {a thing2}.\"",
        "Then {he} saw {an object} at the {place}! It cost {number} coins, all that {he} had.",
        "{He} paid {manner} and wrapped it in {colour} {material}.",
        "At the {party}, {friend} opened the {colour} {material} and [jumped for joy|shouted with joy].",
        "\"{An object}! How did you know?\" asked {friend}.",
        "\"I listened to you,\" said {hero}. [A good friend listens.|Listening is the best gift of all.]",
    ],
    // Something breaks, and the truth comes out.
    &[
        "At home stood {an object} that belonged to {his} {elder}.",
        "[\"Please do not touch it,\" said the {elder}.|{His} {elder} had asked {him} not to play with it.]",
        "[But that same morning|When no one looked], {hero} played with it anyway. Crash! The {thing} broke.",
        "{He} was afraid and hid the pieces [under|behind] the {group} at the {place}.",
        "?{Friend}, the {fkind}, saw it and said, \"You should tell the truth.\"",
        "That evening {his} {elder} asked, \"Where is my {object}?\"",
        "{Hero} looked down. [First {he} said nothing.|{His} heart beat fast.]",
        "\"I broke it,\" {he} said {voice}. \"The pieces are at the {place}. I am sorry.\"",
        "{His} {elder} [hugged {him}|was quiet, then smiled]. \"Thank you for telling the truth.\"",
        "Together they fetched the pieces from the {place} and fixed the {thing} with {material}.",
        "It was not as pretty as before, but {hero} felt light again.",
    ],
    // A fear is overcome with what an elder gave.
    &[
        "{Hero} was [afraid of|scared of] one thing: {fear}.",
        "[\"Take this,\" said {his} {elder} and gave {him} {an object}.|{His} {elder} gave {him} {an object} and said, \"This will help you.\"]",
        "\"Hold it tight when you are afraid.\"",
        "One night {friend}, the {fkind}, did not come home from the {place}.",
        "[Everyone was worried.|No one knew what to do.] But the way to the {place} was full of {fear}.",
        "{Hero}'s knees shook. Then {he} held the {thing} tight and went {manner}.",
        "?{He} walked past the {other} and between the {group}.",
        "At the {place}, {friend} was stuck [between|under] some {group}.",
        "\"You came!\" cried {friend}. \"Were you not afraid of {fear}?\"",
        "\"I was,\" said {hero}, \"but I had the {object} from my {elder}.\"",
        "They went home [hand in hand|side by side|together], and {hero} was a little less afraid of {fear}.",
    ],
    // A promise is kept past temptations.
    &[
        "[\"Will you bring this {object} to {friend}?\" asked {his} {elder}.|{His} {elder} asked {him} to bring {an object} to {friend}.]",
        "{Friend} was {a fkind} who lived at the {place} and needed it before [dark|noon|dinner].",
        "\"I promise,\" said {hero}, and {he} set off {manner}.",
        "At the {other}, the {second} said, \"Come and {skill} with me!\"",
        "\"Not now,\" said {hero}. \"I promised to go to the {place}.\"",
        "?Then {a job} offered {him} {a food}. It smelled so good, but {he} walked on.",
        "At last {he} reached the {place} and gave {friend} the {thing}.",
        "\"You kept your promise!\" said {friend}. \"Thank your {elder} for the {object}.\"",
        "On the way back {he} stopped at the {other}. The {second} was still there.",
        "\"Now I have time,\" said {hero}, and the two began to {skill} [until sunset|until the stars came out].",
    ],
    // A contest, and a prize that is shared.
    &[
        "Soon there was a contest at the {place}. The prize was {an object}.",
        "{Hero} wanted to win, and so did {friend}, the {nature2} {fkind}.",
        "[\"I am the best,\" said {friend}.|{Friend} laughed and said, \"You will never win.\"]",
        "They had to {move} all the way to the {other}.",
        "{Friend} was faster, but then {friend} [fell over|tripped over] some {group} and cried.",
        "{Hero} could see the {object}. {He} could win now!",
        "But {he} [stopped|turned around] and helped {friend} up.",
        "So the {second} came first and won the {thing}.",
        "\"Why did you stop?\" asked {friend} {voice}. \"Because you were hurt,\" said {hero}.",
        "The {second} had heard it. \"Then the {object} belongs to all of us,\" said the {second}.",
        "From that day, {hero}, {friend} and the {second} [played|went to the {place}] together.",
    ],
    // Three things from three places.
    &[
        "{Hero} and {friend}, the {fkind}, wanted to build {a thing2} for the {party}.",
        "\"We need {material}, {a thing} and some {group},\" said {friend}.",
        "First they got {material} from the {job} at the {place}.",
        "Then they found {an object} at the {other}.",
        "Last they looked for {group}. [They looked for hours.|It took all {day}.]",
        "?\"I am tired,\" said {friend}. \"Just a little more,\" said {hero} {voice}.",
        "{A small} showed them {number} {group} [by the path|behind a tree].",
        "At home they put together the {material}, the {thing} and the {group}.",
        "What {a thing2} it was! Everyone at the {party} [clapped|cheered].",
        "\"The {material} is mine!\" said the {job} from the {place} and laughed.",
        "[Together they had done what neither could do alone.|\"We did it together,\" said {hero} to {friend}.]",
    ],
    // A prank, and being sorry.
    &[
        "{His} friend {friend}, the {fkind}, had {an object} and was proud of it.",
        "{Hero} [was jealous|wanted to be funny], so {he} hid the {thing} at the {place}.",
        "\"Who has seen my {object}?\" asked {friend}.",
        "\"Not me,\" said {hero}. [But {his} tummy hurt.|But {he} did not feel good.]",
        "{Friend} looked at the {other}, and asked the {job}, and cried {voice}.",
        "?{His} {elder} said, \"A good {kind} makes things right.\"",
        "[That night|In the evening] {hero} went to the {place} and took the {thing} out [of the {group}|again].",
        "\"Here is your {object},\" {he} said. \"I hid it at the {place}. I am sorry.\"",
        "{Friend} was [angry|sad] at first. Then {friend} said, \"It is good that you told me.\"",
        "{Hero} gave {friend} {a food} too, and never [hid|took] a friend's things again.",
    ],
    // A seed, patience, and who gave it.
    &[
        "The {job} at the {place} gave {him} {a colour} seed. \"It needs {number} weeks,\" said the {job}.",
        "{Hero} put it into {an object} and gave it water every {day}.",
        "?{A small} was {doing} on the {thing}, but no plant came.",
        "[\"It is dead,\" said {friend}, the {fkind}.|{Friend}, the {fkind}, laughed at the empty {thing}.]",
        "\"It needs {number} weeks,\" said {hero} {voice}, and {he} waited.",
        "[It was hard to wait.|Every morning {he} looked.] {He} told the seed about the {other}.",
        "After {number} weeks a green leaf came out of the {object}, and then {a colour} {plant}!",
        "\"How beautiful!\" said {friend}. \"I was wrong.\"",
        "{Hero} took the {plant} to the {place} and showed it to the {job}.",
        "\"You were patient,\" said the {job}, and gave {him} and {friend} one {colour} seed each.",
    ],
    // Someone new, and a skill that is passed on.
    &[
        "A new {fkind} named {friend} came to the {place}. {Friend} was {nature2} and had no friends yet.",
        "The others did not play with {friend} [because of|and laughed at] the {object} that {friend} always carried.",
        "{Hero} went over {manner}. \"I like your {thing},\" {he} said. \"Where is it from?\"",
        "\"My {elder} made it from {material}, at the {other}, far away,\" said {friend}.",
        "?They shared {a food} and watched {a small}.",
        "\"Can you {skill}?\" asked {hero}. \"No,\" said {friend}, \"but I want to learn.\"",
        "So {hero} taught {friend} to {skill}, every {day} for {number} weeks.",
        "When the {party} came, {friend} began to {skill}, and [everyone|all at the {place}] clapped.",
        "\"Who taught you?\" they asked. \"{Hero} did,\" said {friend}.",
        "The next {day}, {hero} got a present: {an object} made from {material}, just like {friend}'s.",
    ],
    // A secret that helps to find the owner.
    &[
        "At the {place}, {he} found {an object} in the {group}. Inside it was a note with one word: {friend}.",
        "[\"It is mine now,\" {he} thought.|{He} wanted to keep it.] But {he} did not feel right.",
        "{He} asked the {job}. \"{Friend}? That is {a fkind} who lives by the {other},\" said the {job}.",
        "?It was a long way, and it was {weather}.",
        "{Hero} walked {manner} to the {other} and knocked.",
        "{A fkind} opened the door with sad eyes. \"Is your name {friend}?\" asked {hero}.",
        "\"Yes. How do you know?\" \"It says so in your {thing},\" said {hero}.",
        "{Friend} hugged the {object}. \"My {elder} gave me this! I lost it at the {place} {number} days ago.\"",
        "[To say thanks|With a smile], {friend} gave {hero} {a food} and taught {him} to {skill}.",
        "{Hero} came home without the {thing}, but with a friend.",
    ],
];

pub(super) const CLOSINGS: &[&str] = &[
    "And {hero} and {friend} [stayed friends forever|lived happily ever after].",
    "That night {hero} [slept well|dreamed of the {place}|smiled in {his} sleep].",
    "{Hero} never forgot that {day} at the {place}.",
    "From then on, {hero} and {friend} met at the {place} every {day}.",
    "When {he} told {his} {elder} about it, the {elder} [laughed|was proud|was happy for {him}].",
    "They drank {drink}, played {game}, and [laughed|talked] until dark.",
    "{Hero} felt {feeling}, and {friend} felt {feeling} too.",
    "And every time {he} saw {an object}, {hero} thought of {friend}.",
];
