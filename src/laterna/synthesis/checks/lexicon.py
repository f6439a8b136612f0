"""What the checks know of words for COCO's objects, beyond the synonyms that everyone shares.

Two readings of one word are kept apart. As evidence, in a caption, a word holds everything that
it may mean. As a claim, in a reply, it stands only for what it surely names: a doubtful one
("glasses", "bat", "remote area") is counted as unchecked.
"""

from __future__ import annotations

from laterna.synthesis.coco import SUPERCATEGORIES, SYNONYMS

MORE_SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("mother", "father", "mom", "dad", "fisherman", "firefighter", "policewoman",
               "businessman", "businesswoman", "jockey", "goalie", "soccer player", "male",
               "female", "grandmother", "grandfather", "shopper", "waiter", "waitress", "bartender",
               "commuter", "hiker", "swimmer", "wakeboarder", "kiteboarder", "skydiver"),
    "bicycle": ("tricycle", "mountain bike"),
    "car": ("suv", "van", "station wagon", "convertible", "hatchback", "limousine"),
    "truck": ("pickup truck", "dump truck", "tow truck", "semi truck", "tractor trailer"),
    "bus": ("double decker bus", "shuttle bus", "coach bus"),
    "boat": ("motorboat", "speedboat", "canoe", "tugboat", "catamaran", "cruise ship"),
    "bird": ("hawk", "pelican", "sparrow", "hen", "turkey", "stork", "heron", "crane", "finch"),
    "cat": ("tabby",),
    "dog": ("husky", "beagle", "chihuahua", "dachshund", "dalmatian", "golden retriever",
            "german shepherd", "retriever", "collie", "hound", "spaniel"),
    "cup": ("glass", "tumbler", "paper cup"),
    "cell phone": ("iphone",),
    "tv": ("flat screen tv", "flat screen", "computer monitor"),
    "laptop": ("macbook",),
    "refrigerator": ("refridgerator",),
    "donut": ("donut hole",),
    "sandwich": ("panini", "sub sandwich", "club sandwich"),
    "couch": ("sofa bed",),
    "suitcase": ("suit case",),
    "skateboard": ("skate board",),
    "handbag": ("tote bag", "shoulder bag", "clutch"),
}  # fmt: skip
"""Singular words that are understood besides `coco.SYNONYMS`."""

CHECK_SYNONYMS: dict[str, tuple[str, ...]] = {
    name: SYNONYMS[name] + MORE_SYNONYMS.get(name, ()) for name in SYNONYMS
}

DOUBTFUL = frozenset(
    """cook player batter pitcher catcher rider driver friend family crowd student worker officer
    guy passenger tourist couple adult kid male female crane bat glove mitt meter jet sub ram steer
    crow seat plant remote controller monitor trolley subway scooter ball baseball football
    basketball duck chicken turkey lamb goose cub ski ship semi cab basin meter glass van telephone
    clutch hound coach tram stool canine feline gull mare calf freezer television teddy
    turkeys ducks chickens plants seats remotes controllers glasses vans
    canines felines cattle players drivers riders friends families crowds students workers officers
    passengers tourists couples adults kids males females bats gloves balls monitors meters jets
    trolleys scooters cabs lambs novel shears racket desk bull""".split()
)
"""Words of one category that often mean something else: not enough to reject a reply."""

BROADER: dict[str, tuple[str, ...]] = {
    "bike": ("bicycle", "motorcycle"),
    "bikes": ("bicycle", "motorcycle"),
    "biker": ("bicycle", "motorcycle", "person"),
    "cyclist": ("bicycle", "person"),
    "motorcyclist": ("motorcycle", "person"),
    "scooter": ("motorcycle", "bicycle", "skateboard"),
    "bear": ("bear", "teddy bear"),
    "bears": ("bear", "teddy bear"),
    "glass": ("cup", "wine glass"),
    "glasses": ("cup", "wine glass"),
    "cup": ("cup", "wine glass", "bowl"),
    "cups": ("cup", "wine glass", "bowl"),
    "mug": ("cup",),
    "bag": ("handbag", "backpack", "suitcase"),
    "bags": ("handbag", "backpack", "suitcase"),
    "purse": ("handbag",),
    "luggage": ("suitcase", "backpack", "handbag"),
    "baggage": ("suitcase", "backpack", "handbag"),
    "suitcase": ("suitcase",),
    "seat": ("chair", "bench", "couch", "toilet"),
    "seats": ("chair", "bench", "couch"),
    "armchair": ("chair", "couch"),
    "sofa": ("couch", "chair"),
    "couch": ("couch", "chair"),
    "van": ("car", "truck", "bus"),
    "vans": ("car", "truck", "bus"),
    "suv": ("car", "truck"),
    "jeep": ("car", "truck"),
    "pickup": ("car", "truck"),
    "vehicle": ("car", "truck", "bus", "motorcycle", "bicycle", "train", "boat", "airplane"),
    "vehicles": ("car", "truck", "bus", "motorcycle", "bicycle", "train", "boat", "airplane"),
    "traffic": ("car", "truck", "bus", "motorcycle", "traffic light"),
    "trolley": ("train",),
    "tram": ("train", "bus"),
    "monitor": ("tv", "laptop"),
    "monitors": ("tv", "laptop"),
    "screen": ("tv", "laptop", "cell phone"),
    "computer": ("laptop", "tv", "keyboard", "mouse"),
    "computers": ("laptop", "tv", "keyboard", "mouse"),
    "desktop": ("tv", "keyboard", "mouse"),
    "controller": ("remote",),
    "stove": ("oven",),
    "animal": SUPERCATEGORIES["animal"],
    "animals": SUPERCATEGORIES["animal"],
    "pet": ("dog", "cat", "bird"),
    "pets": ("dog", "cat", "bird"),
    "livestock": ("cow", "sheep", "horse"),
    "fruit": ("banana", "apple", "orange"),
    "fruits": ("banana", "apple", "orange"),
    "vegetable": ("broccoli", "carrot"),
    "vegetables": ("broccoli", "carrot"),
    "veggies": ("broccoli", "carrot"),
    "food": SUPERCATEGORIES["food"],
    "dessert": ("cake", "donut"),
    "pastry": ("cake", "donut"),
    "pastries": ("cake", "donut"),
    "utensil": ("fork", "knife", "spoon"),
    "utensils": ("fork", "knife", "spoon"),
    "silverware": ("fork", "knife", "spoon"),
    "cutlery": ("fork", "knife", "spoon"),
    "dishes": ("bowl", "cup"),
    "dish": ("bowl",),
    "drink": ("cup", "wine glass", "bottle"),
    "drinks": ("cup", "wine glass", "bottle"),
    "beverage": ("cup", "wine glass", "bottle"),
    "coffee": ("cup",),
    "tea": ("cup",),
    "wine": ("wine glass", "bottle"),
    "beer": ("bottle", "cup"),
    "flowers": ("potted plant", "vase"),
    "flower": ("potted plant", "vase"),
    "furniture": SUPERCATEGORIES["furniture"],
    "appliances": SUPERCATEGORIES["appliance"],
    "electronics": SUPERCATEGORIES["electronic"],
    "toy": ("teddy bear",),
    "toys": ("teddy bear",),
    "tennis": ("tennis racket", "sports ball"),
    "baseball": ("baseball bat", "baseball glove", "sports ball"),
    "soccer": ("sports ball",),
    "batter": ("baseball bat",),
    "catcher": ("baseball glove",),
    "surf": ("surfboard",),
    "surfing": ("surfboard",),
    "surfer": ("surfboard", "person"),
    "surfers": ("surfboard", "person"),
    "surfs": ("surfboard",),
    "skiing": ("skis",),
    "skier": ("skis", "person"),
    "skiers": ("skis", "person"),
    "skateboarding": ("skateboard",),
    "skateboarder": ("skateboard", "person"),
    "snowboarding": ("snowboard",),
    "snowboarder": ("snowboard", "person"),
    "cycling": ("bicycle",),
    "biking": ("bicycle",),
    "board": ("surfboard", "skateboard", "snowboard"),
    "suit": ("tie",),
    "someone": ("person",),
    "somebody": ("person",),
    "anyone": ("person",),
    "hand": ("person",),
    "hands": ("person",),
    "feet": ("person",),
    "legs": ("person",),
    "individual": ("person",),
    "individuals": ("person",),
    "team": ("person",),
    "traveler": ("person",),
    "travelers": ("person",),
    "mattress": ("bed",),
    "kitchenware": ("bowl", "cup"),
}
"""Words of captions to the categories they may speak of: there a reply is not called wrong."""

OTHER_THINGS = frozenset(
    tuple(phrase.split("_"))
    for phrase in """
    dog_bed dog_beds pet_bed flower_bed flower_beds truck_bed river_bed
    bus_stop bus_station bus_driver bus_lane train_station train_track train_tracks train_car
    train_cars train_platform car_park car_wash cable_car cable_cars street_car
    boat_house motor_home street_light street_lights horse_riding chair_lift ski_lift ski_slope
    ski_resort ski_pole ski_poles ski_boots ski_jacket ski_goggles ski_gear ski_lodge
    table_cloth table_tennis table_lamp table_top tennis_table picnic_table side_table end_table
    bedside_table night_table water_table pool_table
    cake_donut cake_donuts cake_doughnut cake_doughnuts cake_stand cake_style cup_cake cup_holder
    apple_tree apple_pie apple_juice orange_juice orange_tree banana_bread banana_split
    carrot_cake pizza_box pizza_boxes pizza_cutter pizza_oven pizza_dough pizza_crust pizza_pan
    sandwich_bread hot_dog_bun hot_dog_stand book_shelf book_shelves book_case book_store
    clock_face clock_tower mouse_pad phone_booth phone_call phone_case phone_number
    phone_booths phone_calls toilet_paper toilet_seat toilet_tank toilet_bowl toilet_lid
    tie_dye tie_dyed tie_clip
    bird_house bird_feeder bird_bath bird_cage bird_seed
    cat_food cat_toy cat_bed cat_tree cat_litter dog_food dog_toy dog_house dog_owner dog_owners
    dog_walker dog_park dog_leash dog_collar dog_breed dog_show pet_owner
    cow_boy horse_race horse_racing horse_carriage horse_drawn sheep_dog
    bear_in_mind zebra_crossing zebra_crossings zebra_print giraffe_print
    umbrella_stand suitcase_tag bottle_cap bottle_opener bottle_rack wine_rack
    knife_block fork_in_the_road fork_lift
    bowl_cut baseball_cap baseball_caps baseball_hat baseball_field baseball_game baseball_player
    baseball_players baseball_uniform baseball_team baseball_park baseball_stadium baseball_match
    baseball_diamond football_field football_game football_player football_players football_team
    basketball_court basketball_game basketball_player basketball_players
    surfboard_rack skateboard_park skateboard_ramp skateboard_trick skateboard_tricks
    traffic_light_pole tv_stand tv_show tv_shows tv_remote tv_program laptop_bag laptop_case
    remote_area remote_location remote_place remote_setting remote_island computer_mouse_pad
    people_watching people_skills family_friendly friend_group
    boat_ride boat_trip boat_dock boat_ramp boat_launch airplane_ticket plane_ticket plane_crash
    car_ride car_accident car_door car_window car_seat car_seats car_show car_dealership
    truck_driver truck_stop bicycle_rack bicycle_racks bicycle_lane bicycle_lanes bicycle_path
    bike_rack bike_racks bike_lane bike_lanes bike_path bike_ride bike_trail bike_shop bike_share
    motorcycle_helmet motorcycle_gear motorcycle_club motorcycle_show motorcycle_rally
    bench_press sofa_table oven_mitt oven_mitts oven_rack refrigerator_door
    refrigerator_magnet microwave_cart
    passenger_side passenger_seat passenger_door driver_side driver_seat
    dvd_player cd_player record_player music_player media_player family_room
    baby_elephant baby_elephants baby_giraffe baby_giraffes baby_zebra baby_zebras baby_bear
    baby_bears baby_sheep baby_cow baby_cows baby_horse baby_horses baby_bird baby_birds
    adult_elephant adult_elephants adult_giraffe adult_giraffes adult_zebra adult_zebras
    adult_bear adult_bears adult_sheep adult_cow adult_cows adult_horse adult_bird
    mother_elephant mother_giraffe mother_zebra mother_bear mother_sheep mother_cow mother_nature
    child_friendly kid_friendly lady_bug man_made boy_scout
    """.split()
)
"""Phrases that hold a word of an object and name another thing, or the object's owner or part."""

DEPICTIONS = frozenset(
    """toy stuffed plastic fake painted model miniature statue statues sculpture sculptures painting
    paintings drawing drawings poster posters logo picture pictures photo photos photograph
    photographs cartoon print ceramic inflatable carved resembling resembles shaped themed
    figurine figurines emblem illustration mural image images design""".split()
)
"""Words before a mention within reach that make it a likeness, which boxes may or may not hold."""

KIND_NAMES = frozenset(
    """person persons people individual individuals human humans bicycle bicycles motorcycle
    motorcycles motorbike motorbikes airplane airplanes plane planes tv tvs television televisions
    refrigerator refrigerators fridge fridges donut donuts doughnut doughnuts couch couches sofa
    sofas cellphone cellphones""".split()
)
"""Words besides a category's own name that mean all of the category, not a part of it."""
