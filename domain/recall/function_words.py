"""Function words: articles, pronouns, auxiliaries, question words, greetings.

They identify languages, queries ignore them, and in scripts without spaces a question is split at them. The lists are
short on purpose: words that libraries list as stop words, such as "Tag", "nom", "имя" or "今天", are often what a person
asks for.
"""

# ruff: noqa: E501, SIM905  (words of many languages, some of them as wide as two characters)

import re
from collections.abc import Mapping

ENGLISH = "english"

_WORDS = """
english a about after again all also am an and any anything are as at be been before being but by can could did do does
    done for from get give go got had has have he hello her hers hey hi him his how i if in into is it its just know let
    like make me mine more most my need no not now of off ok okay on once one only or other our out over please same say
    see she should so some tell than thank thanks that the their them then there these they this those to too up us very
    want was we were what when where which while who whom whose why will with would yes you your
german aber alle als also am an auch auf aus bei beim bin bis bist bitte da damit danke dann das dass dein deine dem den
    denn der des dich die dir doch du ein eine einem einen einer eines er es etwas euch für gab gibt habe haben hat
    hatte hatten hast heißt hier ich ihm ihn ihr ihre im in ins ist ja kann kannst kein keine könnte mal man mehr mein
    meine meinem meinen meiner meines mich mir mit nach nein nicht noch nun nur ob oder ohne schon sein seine sich sie
    sind so soll um und uns unser unsere vom von vor wann war waren warum was weil weiter welche welchem welchen welcher
    welches wem wen wenn wer werde werden wie wieder will wir wird wo wohin woher wurde würde zu zum zur über
french à ai as au aux avec avez avait avais bien bonjour c ce cela ces cet cette ceux ci comme comment d dans de déjà
    des dis dit donc du elle elles en encore est et étais était êtes être eu fait faut il ils j je jusqu l la là le les
    leur leurs lui m ma mais me merci mes moi mon n ne non nos notre nous on ont ou où oui par pas plus pour pourquoi
    puis qu quand que quel quelle quelles quels qui quoi s sa sans se ses si son sont suis sur t ta te tes toi ton
    toujours tout très tu un une va vais vas vos votre vous y
spanish a al algo como cómo con cual cuál cuáles cuando cuándo cuánto de del desde donde dónde e el él ella en era eres
    es esa ese eso esta está están este esto estoy fue gracias ha hace has hay he hola la las le les lo los más me mi
    mis mí mucho muy ni no nos nuestra nuestro o para pero por porque qué que quién se ser si sí sin sobre son soy su
    sus también te tengo ti tiene tu tus tú un una uno y ya yo
italian a ai al alla alle anche c che chi ci ciao come con cosa cui da dal dalla dei del della delle di dove e è era gli
    grazie ha hai hanno ho i il in io l la le lei lo loro lui ma mi mia mie miei mio nel nella no noi non o per perché
    più qual quale quali quando quanto quella quello questa questo qui se sei si sì sono sta su sua sul suo te ti tra tu
    tua tuo un una uno vi voi
portuguese a ao aos as até com como da das de dela dele do dos e é ela ele em era essa esse está estou eu foi há isso
    isto já lhe mais mas me meu meus mim minha minhas muito na não nas no nos nós nossa nosso num numa o obrigado olá
    onde os ou para pela pelo por porque qual quais quando quanto que quê quem se sem ser seu sim sobre sou sua são
    também te tem tenho teu tu tua um uma você
dutch aan al als bij dag dan dank dat de der deze die dit doen door dus een en er had heb hebben heeft het hier hij hoe
    ik in is ja je jij jou jouw kan maar me meer met mij mijn naar nee niet nog nu of om ons onze ook op over te toch
    toen tot u uit van veel voor waar waarom wanneer waren was wat we wel welk welke werd wie wij wil worden zal ze zich
    zij zijn zo zou
swedish är alla att av blev de dem den denna det detta dig din ditt du efter eller en ett för från ha har hade hej här
    hon hur i icke ingen inte ja jag kan kommer man med men mig min mina mitt nej när nu någon och också om oss på sig
    sin skall ska som så tack till under upp ut vad var varför vem vi vid vilka vilken var åt över
danish af alle at blev da de den denne der det dette dig din du efter eller en er et for fra ham han har havde hej hende
    hun hvad hvem hvilken hvor hvordan hvorfor hvornår i ikke ind ja jeg kan man med meget men mig min mine mit nej
    nogle nu når og også om op os over på sig skal som så tak til ud var ved vi vil være
norwegian alle at av ble da de deg den denne der det dette din du eller en er et etter for fra ham han har hadde hei hun
    hva hvem hvilken hvor hvordan hvorfor i ikke inn ja jeg kan man med meg meget men min mine mitt nei noen nå når og
    også om opp oss over på seg skal som så takk til ut var ved vi vil være
finnish ei eikä en et että hän he hei hänen ja jo joka jos kanssa kiitos koska kuin kuinka kuka kun kyllä me miksi mikä
    milloin minä minulla minun missä mitä mutta myös ne niin nyt oli olen olet on ovat se sen siellä siinä sinä sinun
    tai tämä te tuo vai
polish a aby ale bo być był była było być co czy czemu dla do dziękuję gdy gdzie go i ich ile ja jak jaka jaki jakie
    jako jego jej jest jestem już każdy kiedy kogo kto która które który ma mam mi mnie mnie moja moje mój na nad nie
    nim o od on ona oni po pod przez przy się są ta tak tam te tego ten to tu ty w we więc z za ze że
czech a aby ale ani ano až bude by byl byla bylo být co či do ho i jak jaká jaké jaký je jeho její jen ještě jsem jsme
    jsou již k kam kde kdo kdy kolik která které který má mám mě mi mně moje můj na ne nebo není o od on ona po pro proč
    před s se si ta tak také ten to tu ty u už v ve z za ze že
turkish ama ben beni benim bir biz bu bunu çok da daha de değil diye en evet gibi hangi hayır ile için kaç ki kim
    merhaba mi mı mu mü nasıl ne neden nerede nereye o onu onun sen senin siz şey şu var ve veya ya yok
romanian a ai al ale am ar are au ca că când care ce cei cel cine cu cum cât da dar de despre din doar după ea ei el era
    este eu fi fost în îmi iar la le lor lui mai mea meu mi mie mult nu o pe pentru prin sa sale sau să se si și sunt te
    tu un una unde unei unui va vă
hungarian a az ami amit az azt be csak de egy ennek és ez ezt hány hogy hogyan hol honnan igen is itt ki kit köszönöm
    lesz ma már meg mely mennyi mert mi miért mikor milyen mit nagyon nem nincs ő szia te un vagy van volt
indonesian ada adalah akan aku anda apa atau bagaimana berapa bisa dan dari dengan di dia hanya harus ini itu juga kami
    kapan karena ke kenapa kita mana mau mengapa mereka mungkin pada saya sebuah siapa sudah terima tidak untuk yang
russian а без более бы был была были было быть в вам вас ваш во вот все всё вы где да для до его её ей ему если есть ещё
    же за и из или им их к как какая какие какого какое какой какую когда кого кому которая которые который кто куда ли
    лишь мне мной могу можно мои мой моя моего моей моём моему моими моих мою моё мы на над нам нас наш не него неё нет
    ни них но ну о об он она они оно от откуда очень по под подскажи пожалуйста потому почему при привет про с сам себя
    скажи сколько со спасибо так там тебе тебя то тоже только тут ты у уже чего чем чём чему что чтобы это этого этой
    этом эту я
arabic أ إذا إلى إن أن أنا أنت أنه أو أي أية أيضا أين ألم الآن التي الذي الذين إنها بعد بل بين به بها تلك ثم حتى حيث
    خلال ذلك سوف شكرا عن عند عندما عندي على عليه عليها غير في فيه فيها قد كان كانت كنت كل كم كيف كما لا لأن لدي لدى لقد
    لك لكن لم لما لماذا لن له لها لي ليس ما ماذا مازال متى مثل مرحبا مع من منذ منه منها نعم هذا هذه هل هم هنا هناك هو هي
    و والتي وهو وهي يا يمكن
greek αλλά αν από αυτή αυτό αυτός για δεν εγώ εδώ εγώ είμαι είναι ένα ένας έχει έχω η ή θα και κάθε κατά με μετά μη μην
    μια μου μπορώ να ναι ο οι όμως όπως όταν όχι που πού πόσο πότε ποια ποιο ποιος προς πώς σαν σας σε σου στα στη στην
    στις στο στον τα τη την της τι τις το τον του τους των ως
hindi और एक एवं का कि की कुछ के को कौन क्या क्यों कब कहाँ कहां कितना कितने कैसे कोई जब जो तक तब तुम तो था थी थे नहीं ने
    पर बहुत भी मुझे में मेरा मेरी मेरे मैं यह या ये वह वे से हम ही हूँ हूं है हैं हो
"""
"""A line that is not indented begins with the language, named as Snowball names its stemmer."""

FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words)
    for language, *words in (part.casefold().split() for part in re.split(r"\n(?! )", _WORDS.strip()))
}
"""The words of each language."""

PARTICLES = (
    # Chinese
    """的 了 吗 呢 吧 啊 是 我 你 您 他 她 它 我们 你们 他们 她们 咱们 和 跟 与 也 还 很 什么时候 什么 怎么样 怎么 怎样 哪里 哪儿
    哪个 哪些 哪家 哪位 哪天 哪一天 哪一 哪 谁 几点 几号 多少 为什么 请问 请 一下 告诉 这个 那个 可以 没有 以前 之前 说过 提过 提到
    记得 来着 我們 你們 他們 嗎 還 沒有 這個 那個 誰 什麼時候 什麼 怎麼 哪裡 哪兒 幾點 請問 請 說過 記得 為什麼""",
    # Japanese
    """私たち 私 僕 俺 あなた 彼女 これ それ あれ この その あの ここ そこ どこ どれ どの どんな どう いつ だれ 誰 何 なに なん なぜ
    いくつ いくら です ですか でした でしたか でしょうか でしょう ます ますか ました ましたか ません ください して した する します
    しました しますか していた ている ています ていますか ていました という といった って ていう から まで より ので けど でも だった
    でしたっけ ましたっけ だっけ っけ ある いる あります います ありました いました こと もの とき 教えて 覚えて 覚えていますか 前に
    話した 言った 言っていた には では とは での への""",
    # Thai
    """ครับ ค่ะ คะ ผม ฉัน ดิฉัน คุณ อะไร ที่ไหน เมื่อไหร่ เมื่อไร ใคร ทำไม อย่างไร ยังไง เท่าไหร่ เท่าไร หรือเปล่า หรือ ของ ที่ เป็น และ
    แล้ว ไม่ ด้วย จำได้ไหม ได้ไหม จำได้ ช่วยบอก หน่อย""",
)
"""Strings at which a question in a script without spaces is split."""

KOREAN = frozenset(
    """
    내가 내 나는 나의 나 제가 제 저는 저의 저 우리 너 너의 당신 그 그녀 이 저것 그것 이것 무엇을 무엇이
    무엇 뭐 뭘 뭐라고 언제 어디 어디에 어디에서 어디서 어디로 누구 누가 누구와 누구를 어떤 어떻게 어느 왜
    몇 얼마 얼마나 얼마였지 있어 있나요 있어요 있었지 있다 했지 했나요 했어 했었지 였지 이었지 인가요 뭐야
    뭐였지 뭐지 뭐였어 언제야 언제였지 어디야 어디였지 누구였지 누구야 그리고 그런데 하지만 또 더 좀 잘 안
    못 수 것 거 때 기억해 기억나 말했지 말한 말했던 알려줘 하는 한 할 했던 된 되는""".split()
)
"""Korean words that say nothing. Spaces set them apart."""
