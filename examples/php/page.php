<!doctype html><html lang="en"><title>Store</title><link rel="icon" href="data:,">
<script type="module" src="<?= CHATS_URL ?>/chats-static/messenger.js"></script><h1>Store</h1>
<?php if ($path === '/chats'): // the form that leads to the pages of Customer Chats. CHATS_LOGIN_URL is this page. ?>
<form method="post" action="<?= CHATS_URL ?>/session"><button>Open the messages</button>
  <input type="hidden" name="token" value="<?= sign($user) ?>">
  <input type="hidden" name="next" value="<?= htmlspecialchars(filter_input(INPUT_GET, 'next') ?: '') ?>"></form>
<?php elseif ($user): ?>
<form method="post" action="/session"><?= htmlspecialchars($user['name']) ?> <button>Sign out</button></form>
<p><a href="/chats">Messages</a>
<?php if ($user['role'] === 'admin'): ?>
<p>Events: <?= htmlspecialchars(implode(', ', array_map('file_get_contents', glob(DATA . '/events/*')))) ?>
<?php else: ?>
<form method="post" action="/orders"><button>Order a teapot</button></form>
<?php foreach ($_SESSION['orders'] ?? [] as $number): ?>
<p>Order <?= $number ?>: <a href="/chats" data-chats-open="<?= $number ?>">Ask about it</a>
<?php endforeach ?>
<chats-messenger token-url="/chats-token" href="/chats"></chats-messenger>
<?php endif ?>
<?php else: ?>
<form method="post" action="/session">Sign in as
  <button name="user" value="anna">Anna</button> <button name="user" value="sam">Sam</button></form>
<?php endif ?>
