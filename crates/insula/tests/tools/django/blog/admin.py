"""Both models in the admin."""

from django.contrib import admin

from .models import Post, Tag

admin.site.register(Tag)


@admin.register(Post)
class PostAdmin(admin.ModelAdmin):
    list_display = ["title", "author", "created"]
    list_filter = ["tags", "author"]
    search_fields = ["title", "body"]
    date_hierarchy = "created"
