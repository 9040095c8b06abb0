"""The conversations of the demo data, oldest first; what waits for an answer comes last, so it shows first."""

from services.conversations.demo_data import Message, Talk
from services.conversations.rules import Status

# A long one, as somebody writes who has thought about it.
_WHOLESALE = """\
Hello,

I hope this is the right place to ask. My sister and I are opening a small café in spring, twenty-four seats, mostly \
breakfast and cakes, and we would love to serve everything on your stoneware. I have four of the speckled mugs at home \
and they have survived my dishwasher, my children and one fall from the counter, which is more than I can say of any \
other mug I ever owned.

This is what we think we need:

- 48 mugs, speckled, 0.3 l (two for each seat, because the dishwasher is never done when you need it)
- 24 espresso cups with saucers, the same glaze if there is one
- 36 breakfast plates, about 21 cm
- 24 small bowls for porridge and fruit
- 6 teapots, 0.8 l
- 4 large serving bowls for the counter

And these are our questions:

1. Do you have prices for such quantities? We don't need all at once, two deliveries would be fine.
2. Can we buy single pieces later, when things break, at the same price? They will break.
3. How much do two batches differ in colour? Some difference is charming, but the plates should not look like a jumble \
sale.
4. Is the glaze good for a commercial dishwasher? Ours runs at 85 degrees, with rather harsh detergent.
5. Could you stamp our logo on the bottom? It is a very simple hare, one colour. No problem at all if not.

We open at the beginning of April, so we would need the first half by the middle of March. I am glad to come by with \
my sister on a Saturday and look at pieces in daylight, if that helps.

Many thanks and kind regards
Anna

PS: The walnut boards would look beautiful under the cakes. If there is a price for six of them, please add it!"""

TALKS = (
    Talk(
        user_id="anna",
        subject="Teapot arrived with a chipped lid",
        days_ago=(36, 33.2),
        order_id="A-1001",
        body="Hi, the teapot is lovely, but the lid has a chip on the rim, about the size of a fingernail. The box "
        "itself was fine. Can I get just a new lid, or do I have to send everything back?",
        then=(
            Message("sam", "Hi Anna, I'm sorry about that. No need to send anything back: I'll post you a new lid."),
            Message("anna", "That was quick, thank you! The lid came this morning and fits."),
            Message("sam", "Glad to hear it. Enjoy your tea!"),
            Status.CLOSED,
        ),
    ),
    Talk(
        user_id="ben",
        subject="Rechnung zur Kaffeemühle",
        days_ago=(31.3, 29.1),
        order_id="A-1002",
        body="Hallo, könnten Sie mir bitte eine Rechnung mit ausgewiesener USt. für die Kaffeemühle schicken? In der "
        "Sendung lag nur ein Lieferschein.",
        then=(
            Message(
                "olga",
                "Hallo Ben, sehr gern. Die Rechnung liegt jetzt in Ihrem Kundenkonto bei der Bestellung A-1002, als "
                "PDF zum Herunterladen. Schöne Grüße, Olga",
            ),
            Message("ben", "Gefunden, danke!"),
            Status.CLOSED,
        ),
    ),
    Talk(
        user_id="anna",
        subject="Do you have a shop I can visit?",
        days_ago=(26.4, 26.1),
        body="Are you open on Saturdays?",
        then=(
            Message(
                "sam",
                "We are, from 10 to 4. The workshop is behind the café, ring the bell if nobody is at the counter.",
            ),
            Status.CLOSED,
        ),
    ),
    Talk(
        user_id="ben",
        subject="Please check your grinder's handle",
        days_ago=(24.2, 24.2),
        order_id="A-1002",
        opened_by="olga",
        body="Hello Ben,\n\nthe screw that holds the handle was not tightened well in some of our grinders. Please "
        "turn it clockwise with a 4 mm hex key until it sits firmly; half a turn is usually enough. If it keeps coming "
        "loose, write to us here and we will send you a new handle.\n\nOlga",
        then=(Status.CLOSED,),
    ),
    Talk(
        user_id="chloe",
        subject="Taille du tablier",
        days_ago=(23.1, 21.3),
        order_id="A-1003",
        body="Bonjour, j'ai commandé deux tabliers mais ils sont un peu courts pour mon mari (1,92 m). Existe-t-il une "
        "taille plus longue ?",
        then=(
            Message(
                "olga",
                "Bonjour Chloé, oui : le modèle « long » fait 15 cm de plus, dans le même lin. Nous pouvons échanger "
                "un des deux, le retour est gratuit. Souhaitez-vous l'étiquette ?",
            ),
            Message("chloe", "Oui, volontiers. Merci beaucoup !"),
            Message("olga", "C'est fait, elle est dans votre compte. Bonne journée !"),
            Status.RESOLVED,
        ),
    ),
    Talk(
        user_id="anna",
        subject="Coffee stains in the speckled mugs",
        days_ago=(18.4, 16.2),
        order_id="A-1004",
        body="The glaze keeps a brown ring after a week ☕😅 Is that normal, and is there a trick to get it out? "
        "I don't want to scratch them.",
        then=(
            Message(
                "sam",
                "Quite normal with a matt glaze. A spoon of baking soda, hot water, ten minutes, then wipe with a soft "
                "cloth. No steel wool, please!",
            ),
            Message("anna", "Worked like magic ✨ thanks Sam 👩🏽‍🍳"),
            Status.RESOLVED,
        ),
    ),
    Talk(
        user_id="ben",
        subject="Can I pick up the kettle myself?",
        days_ago=(1.9, 1.7),
        order_id="A-1011",
        body="I'm in town on Thursday anyway, so you don't have to ship it.",
        then=(
            Message("sam", "Sure, I've set it aside and changed your order to pick-up. Just tell us the number."),
            Message("ben", "Perfect, see you then."),
            Status.RESOLVED,
        ),
    ),
    Talk(
        user_id="chloe",
        subject="Where can I change my address?",
        days_ago=(14.3, 13.9),
        body="I have moved and cannot find where to change the address for my next orders.",
        then=(
            Message("olga", "Under 'My account', then 'Addresses'. Orders that are packed keep the old one."),
            Status.RESOLVED,
        ),
    ),
    Talk(
        user_id="ben",
        subject="Ersatzteil für die Mühle",
        days_ago=(12.1, 11.2),
        order_id="A-1002",
        body="Gibt es das Auffangglas einzeln? Mir ist es leider hinuntergefallen.",
        then=(
            Message(
                "olga",
                "Ja, um 6,50 EUR. Es ist noch nicht im Shop, aber ich kann es gleich zu Ihrer offenen Bestellung "
                "A-1008 legen, dann kostet es keinen Versand. Soll ich?",
            ),
        ),
    ),
    Talk(
        user_id="chloe",
        subject="Idée cadeau 🎁",
        days_ago=(9.3, 8.2),
        body="Bonjour ! Je cherche un cadeau de mariage autour de 100 €, pour un couple qui cuisine beaucoup. "
        "Une idée ?",
        then=(
            Message(
                "sam",
                "Bonjour Chloé, la cocotte en fonte part souvent pour les mariages, et le saladier bleu avec les "
                "couverts en olivier fait très joli dans un paquet. Nous emballons gratuitement 🎀",
            ),
        ),
    ),
    Talk(
        user_id="ben",
        subject="Discount code <WELCOME10> is refused",
        days_ago=(7.2, 6.8),
        body='At checkout it says:\n\n<p class="error">Code &quot;WELCOME10&quot; isn\'t valid</p>\n\nYes, with the '
        "tags. For fun I typed <script>alert('hello')</script> and it showed that just the same, so you seem to be "
        "safe. But the 10% would be nice & fair :-)",
        then=(
            Message(
                "sam",
                "Thank you for the report, <b> and all! The text is fixed. The code was for first orders only, but "
                "here is one for you: THANKS-BEN, good for 10% until the end of the month.",
            ),
        ),
    ),
    Talk(
        user_id="anna",
        subject="Invoice address on A-1010",
        days_ago=(1.2, 0),
        order_id="A-1010",
        body="Could you put my company's name on the invoice for the gift card? It's for a colleague's leaving do.",
        then=(
            Message("olga", "Of course. What should it say, exactly? And is there a VAT number to go with it?"),
            Message("olga", "A photo of an old invoice would do, too, if that is easier."),
        ),
        unread=True,
    ),
    Talk(
        user_id="ben",
        subject="Ihre Espressotassen verspäten sich",
        days_ago=(0, 0),
        order_id="A-1008",
        opened_by="olga",
        body="Hallo Ben,\n\nbei der letzten Lieferung waren leider zwei Tassen gesprungen, darum fehlt uns gerade ein "
        "vollständiges Set. Die neuen kommen voraussichtlich nächste Woche. Möchten Sie warten, oder sollen wir den "
        "Betrag erstatten?\n\nBeste Grüße\nOlga",
        unread=True,
    ),
    Talk(
        user_id="chloe",
        subject="Commande annulée, remboursement ?",
        days_ago=(1.1, 0),
        order_id="A-1009",
        body="Bonjour, ma commande a été annulée mais je ne vois pas encore le remboursement de 89 €.",
        then=(
            Message(
                "olga",
                "Bonjour Chloé, nous l'avons émis le jour de l'annulation. Selon la banque, il faut trois à cinq jours "
                "ouvrables. Écrivez-nous ici s'il n'est pas arrivé vendredi.",
            ),
        ),
        unread=True,
    ),
    Talk(user_id="chloe", subject="Question about the table runner", order_id="A-1012", days_ago=(0.8, 0.8)),
    Talk(
        user_id="chloe",
        subject="Paiement refusé deux fois",
        days_ago=(0.6, 0.6),
        body="Ma carte a été refusée deux fois, mais ma banque dit que tout est en ordre. Ai-je été débitée ? Je n'ose "
        "pas réessayer.",
    ),
    Talk(
        user_id="ben",
        subject="Rückgabe Kochmesser",
        days_ago=(15.2, 0.5),
        order_id="A-1005",
        body="Das Messer liegt mir leider nicht gut in der Hand. Ich habe es nur ausgepackt, nicht verwendet.",
        then=(
            Message("sam", "Kein Problem, Ben. Das Rücksendeetikett ist in Ihrem Konto, Sie haben 30 Tage Zeit."),
            Message("ben", "Ist unterwegs."),
            Status.RESOLVED,
            Message(
                "ben",
                "Noch eine Frage: Die Rücksendung steht seit Tagen auf 'angekommen', aber das Geld ist noch nicht da. "
                "Wie lange dauert das normalerweise?",
            ),
        ),
    ),
    Talk(
        user_id="chloe",
        subject="Your parcel came back to us",
        days_ago=(2.2, 0.3),
        order_id="A-1006",
        opened_by="sam",
        body="Hi Chloé, the carrier returned your parcel: nobody at home, and no pick-up shop nearby. Shall we send it "
        "again to the same address, or to another one?",
        then=(
            Message("chloe", "Oh no! Please send it to my office, I'll put the address in my account now."),
            Message("chloe", "Done. It's the second one in the list, with the blue door :)"),
        ),
        unread=True,
    ),
    Talk(
        user_id="anna",
        subject="Wholesale prices for a small café",
        days_ago=(1.5, 0.2),
        body=_WHOLESALE,
        then=(
            Message(
                "sam",
                "What a lovely plan, Anna! I'll talk to the workshop about batches and the hare and come back to you "
                "with an offer. Are handles that stack a must for you?",
            ),
            Message("anna", "Not a must, but the shelf is narrow. Could you quote both?"),
        ),
    ),
    Talk(
        user_id="ben",
        subject="Kettle drips from the spout",
        days_ago=(0.9, 0.1),
        order_id="A-1011",
        body="It leaves a few drops on the table after each pour. Am I holding it wrong?",
        then=(
            Message("sam", "Could be a burr on the spout. Does it also drip when you pour slowly?"),
            Message("ben", "Slowly it's worse. I can make a short film of it, if you like."),
        ),
        unread=True,
    ),
    Talk(user_id="ben", subject="Newsletter", unread=True, days_ago=(0.05, 0.05)),
    Talk(
        user_id="anna",
        subject="Where is my parcel?",
        days_ago=(0, 0),
        order_id="A-1007",
        body="The tracking has said 'handed to the carrier' for days now. I need the board as a present on Sunday. Is "
        "there any way to find out where it is?",
        unread=True,
    ),
)
