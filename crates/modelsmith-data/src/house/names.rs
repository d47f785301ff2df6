//! The words that the house corpus draws from; all facts made of them are invented.

/// Given names; their number and that of family names allow 5120 people.
pub(super) const FIRST: [&str; 64] = [
    "Ada", "Bruno", "Clara", "Dario", "Elsa", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Karin",
    "Leo", "Mira", "Nils", "Olga", "Pavel", "Quinn", "Rosa", "Stefan", "Thea", "Ulrich", "Vera",
    "Walter", "Xenia", "Yara", "Zeno", "Agnes", "Boris", "Celia", "Dimitri", "Edith", "Fabio",
    "Gwen", "Henrik", "Ilona", "Jasper", "Kira", "Lucas", "Magda", "Nora", "Oscar", "Petra",
    "Rufus", "Sonja", "Tomas", "Uma", "Viktor", "Wanda", "Yusuf", "Zora", "Alma", "Basil", "Cora",
    "Dora", "Emil", "Flora", "Georg", "Hanna", "Ivan", "Julia", "Kurt", "Linda", "Milo", "Nadia",
];

/// Family names.
pub(super) const LAST: [&str; 80] = [
    "Marlow", "Abbott", "Barlow", "Calder", "Dalton", "Ellery", "Fenner", "Garrick", "Hadley",
    "Ibsen", "Jarvis", "Keller", "Lowell", "Mercer", "Norris", "Osborn", "Prescott", "Quimby",
    "Radley", "Sawyer", "Thorne", "Underhill", "Varga", "Weller", "Yates", "Zimmer", "Ashby",
    "Bexley", "Corbin", "Draper", "Enfield", "Farrow", "Goddard", "Hollis", "Irving", "Jessup",
    "Kendall", "Larkin", "Morrow", "Nesbit", "Oakes", "Pemberton", "Quill", "Rowan", "Selby",
    "Tilden", "Upton", "Vance", "Wycliff", "Yardley", "Archer", "Bishop", "Carver", "Dunmore",
    "Eaton", "Fletcher", "Granger", "Harker", "Ingram", "Joyner", "Kirby", "Lindell", "Maddox",
    "Newton", "Orwell", "Palmer", "Ramsey", "Sutton", "Tanner", "Usher", "Vickers", "Walden",
    "York", "Zeller", "Alcott", "Brandt", "Crane", "Dorset", "Emery", "Foster",
];

/// Cities with their countries.
pub(super) const CITIES: [(&str, &str); 30] = [
    ("Lisbon", "Portugal"), ("Porto", "Portugal"), ("Madrid", "Spain"), ("Seville", "Spain"),
    ("Paris", "France"), ("Lyon", "France"), ("Rome", "Italy"), ("Turin", "Italy"),
    ("Vienna", "Austria"), ("Graz", "Austria"), ("Berlin", "Germany"), ("Hamburg", "Germany"),
    ("Warsaw", "Poland"), ("Krakow", "Poland"), ("Oslo", "Norway"), ("Bergen", "Norway"),
    ("Athens", "Greece"), ("Patras", "Greece"), ("Dublin", "Ireland"), ("Galway", "Ireland"),
    ("Kyoto", "Japan"), ("Osaka", "Japan"), ("Lima", "Peru"), ("Cusco", "Peru"),
    ("Nairobi", "Kenya"), ("Mombasa", "Kenya"), ("Cairo", "Egypt"), ("Luxor", "Egypt"),
    ("Toronto", "Canada"), ("Halifax", "Canada"),
];

/// Companies.
pub(super) const COMPANIES: [&str; 24] = [
    "Redfield Motors", "Bluewater Shipping", "Northgate Bank", "Silverline Optics",
    "Oakhurst Timber", "Falcon Airways", "Granite Insurance", "Harvest Foods", "Lantern Books",
    "Meridian Steel", "Orchid Perfumes", "Pinnacle Tools", "Quartz Watches", "Riverside Mills",
    "Summit Outfitters", "Tidewater Energy", "Velvet Textiles", "Willow Furniture",
    "Zephyr Kites", "Amber Glass", "Beacon Radio", "Copper Kettle", "Dovetail Joinery",
    "Evergreen Farms",
];

/// Professions; none begins with a vowel, so that "a" always precedes.
pub(super) const PROFESSIONS: [&str; 28] = [
    "baker", "carpenter", "chemist", "dentist", "farmer", "florist", "gardener", "glazier",
    "jeweller", "judge", "lawyer", "librarian", "locksmith", "mason", "nurse", "painter",
    "pharmacist", "pilot", "plumber", "potter", "sailor", "sculptor", "surgeon", "tailor",
    "teacher", "violinist", "watchmaker", "weaver",
];
